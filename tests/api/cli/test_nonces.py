"""``hotwallet nonce``, on anvil."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from eth_account import Account

from api.cli.operator import current_operator
from backends.sql import SQLStore
from signer.config.networks import load_networks
from signer.model.audit_record import Actor
from signer.model.refund import Refund
from signer.ports.ledger import Ledger
from tests.api.commands import Run
from tests.fixtures.chain import DevChain
from tests.support.keys import key_at, made_active
from tests.support.ledgers import seal
from tests.support.payments import signed
from tests.support.refunds import KEY, World


def _spend(world: World, dev: DevChain, nonce: int) -> None:
    """Send a transaction with the wallet's key, outside of the service."""
    account = Account.from_key(KEY.secret)
    raw = signed(account, nonce=nonce, data=b"\xf0\x0d")
    assert account.address == world.signer.address
    dev.rpc("eth_sendRawTransaction", "0x" + raw.hex())
    dev.rpc("evm_mine")


def _ledger(store: Ledger) -> object:
    wallets = store.wallets()
    return wallets, [
        store.foreign_transactions(each.chain_id, each.sender) for each in wallets
    ]


@pytest.mark.parametrize(
    "command", [("refund", "explain", "rf_0"), ("nonce", "repair", "--dry-run")]
)
def test_an_unusable_configuration(
    run: Run, networks: Callable[..., Path], command: tuple[str, ...]
) -> None:
    """Without a networks file, commands refuse with its code and status 78."""
    networks().unlink()
    finished = run(*command)

    assert (finished.status, finished.out) == (78, "")
    assert "refused: networks-misconfigured" in finished.err


def test_nothing_to_repair(run: Run, world: World) -> None:
    """There is no wallet before the first payment; afterwards it is in order."""
    before = run("nonce", "repair", "--dry-run")
    world.broadcast()
    after = run("nonce", "repair", "--dry-run")

    assert (before.status, before.out) == (0, "no wallet has paid anything yet\n")
    assert (after.status, after.out) == (
        0,
        f"local {world.signer.address}: next nonce 1, the chain's 1\n  in order\n",
    )


def test_a_dry_run_changes_nothing(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """R23: --dry-run shows a paused wallet with its foreign transactions; status 1."""
    _spend(world, fresh_anvil, 1)
    world.reconcile()
    before = _ledger(world.store)
    finished = run("nonce", "repair", "--dry-run")

    assert finished.status == 1
    assert "  paused by chain-ahead" in finished.out
    assert "  foreign: nonce 1, transaction 0x" in finished.out
    assert "to accept this and resume the wallet: omit --dry-run" in finished.out
    assert before == _ledger(world.store)


def test_a_dry_run_names_open_fillers(run: Run, world: World, paid: Refund) -> None:
    """They hold up the nonces above theirs, and no refund shows them."""
    world.fill(1)
    finished = run("nonce", "repair", "--dry-run")
    (looked,) = run("nonce", "repair", "--json", "--dry-run").json

    assert "  open filler: nonce 1, reserved" in finished.out
    assert looked["fillers"] == [{"nonce": 1, "status": "reserved", "blocked_by": None}]


def test_a_wallet_that_is_not_paused_yet(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """R23: a chain that is ahead is shown even before a worker has noticed it."""
    _spend(world, fresh_anvil, 1)
    finished = run("nonce", "repair", "--dry-run")

    assert finished.status == 1
    assert (
        "next nonce 1, the chain's 2\n  not paused yet: a worker will pause it"
        in finished.out
    )
    assert "not looked at yet: 1 of the chain's transactions" in finished.out
    assert "in order" not in finished.out


def test_repair_resumes_the_wallet(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """R23: foreign transactions are accepted; the next refund gets the next nonce."""
    for nonce in (1, 2):
        _spend(world, fresh_anvil, nonce)
    world.work()
    applied = run("nonce", "repair", "--yes")
    again = run("nonce", "repair", "--dry-run")

    assert (applied.status, again.status) == (0, 0)
    assert "  resumed" in applied.out
    assert "next nonce 3, the chain's 3\n  in order" in again.out
    assert world.broadcast().nonce == 3


def test_repair_waits_for_finality(
    run: Run,
    world: World,
    paid: Refund,
    fresh_anvil: DevChain,
    networks: Callable[..., Path],
) -> None:
    """A foreign transaction that is not final is not accepted; status 1."""
    _spend(world, fresh_anvil, 1)
    world.network = load_networks(networks(confirmations=1000))["local"]
    world.reconcile()
    finished = run("nonce", "repair", "--yes")

    assert finished.status == 1
    assert "  paused by chain-ahead" in finished.out
    assert "  not looked at yet: 1 of the chain's transactions" in finished.out
    assert "not final yet" in finished.out


def test_repairs_as_json(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    _spend(world, fresh_anvil, 1)
    world.reconcile()
    (looked,) = run("nonce", "repair", "--json", "--dry-run").json
    (applied,) = run("nonce", "repair", "--yes", "--json").json

    assert (looked["network"], looked["address"]) == ("local", world.signer.address)
    assert (looked["paused_by"], looked["resumed"]) == ("chain-ahead", False)
    assert [unrecorded["nonce"] for unrecorded in looked["foreign"]] == [1]
    assert (applied["paused_by"], applied["resumed"]) == (None, True)
    assert (applied["next_nonce"], applied["chain_next_nonce"]) == (2, 2)
    assert (applied["foreign"], applied["stopped_at"]) == ([], None)


def test_repairs_one_network(run: Run, paid: Refund) -> None:
    known = run("nonce", "repair", "--network", "local", "--dry-run")
    unknown = run("nonce", "repair", "--network", "mainnet", "--dry-run")

    assert known.out.startswith("local ")
    assert (unknown.status, unknown.out) == (1, "")
    assert unknown.err.startswith("error: not-found: ")


def test_repair_needs_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    networks(url="http://127.0.0.1:9")
    finished = run("nonce", "repair", "--dry-run")

    assert (finished.status, finished.out) == (1, "")
    assert "error: chain-unavailable: " in finished.err
    assert "127.0.0.1:9" not in finished.err


def test_abandon(run: Run, world: World) -> None:
    """Only a blocked key's transactions can be abandoned, on each network."""
    asked = ("nonce", "abandon", world.signer.address, "--yes")
    world.broadcast()
    refused = run(*asked)
    new = key_at("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
    made_active(world.store, new, block=True)
    dry = [run(*asked[:3], "--dry-run", *options) for options in ((), ("--json",))]
    first, again = run(*asked), run(*asked, "--network", "local")
    nothing = run(*asked[:3], "--dry-run")

    assert (refused.status, refused.out) == (1, "")
    assert "error: conflict: " in refused.err
    assert dry[0].out == "local: would-abandon\n"
    assert dry[1].json == [{"network": "local", "status": "would-abandon"}]
    assert (first.status, first.out) == (0, "local: abandoned\n")
    assert nothing.out == "local: not-waiting\n"
    assert (again.status, again.out) == (0, "local: not-waiting\n")


def test_an_operator_without_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kill switch works in a container without user names."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)

    assert current_operator() == Actor("cli:uid-4000000001")


def test_an_operator_whose_name_is_not_utf8(
    run: Run, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login name that is not UTF-8 is recorded with replacement characters."""
    monkeypatch.setenv("LOGNAME", "al\udcffce")
    run("nonce", "repair", "--network", "local", "--yes")
    seal(sqlite_store)
    records = [each.record.fields for each in sqlite_store.sealed(0, 100)]

    assert {each["actor"] for each in records} == {"cli:al?ce"}
    assert current_operator() == Actor("cli:al?ce")
