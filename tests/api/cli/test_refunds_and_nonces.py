"""``hotwallet refund explain``, ``nonce repair`` and ``nonce pause``, on anvil."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from api.cli.__main__ import main
from api.cli.operator import invoker
from api.views.explanations import explanation_document
from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from dev import stablecoin as coin
from signer.config.networks import load_networks
from signer.model.audit_record import Actor
from signer.model.refund import Refund
from signer.ports import Store, utc_now
from tests.fixtures.chain import DevChain
from tests.support.keys import key_at, made_active
from tests.support.payments import signed
from tests.support.refunds import KEY, World


_NETWORKS = """
[networks.local]
chain_id = 31337
rpc_urls = ["{url}"]
confirmations = {confirmations}
rpc_timeout_ms = 2000

[networks.local.tokens.TUSD]
address = "{token}"
decimals = 6
max_amount = "1000"
"""


@dataclass(frozen=True)
class Told:
    """What a command said, and its exit status."""

    status: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on standard output, which holds nothing else."""
        return json.loads(self.out)


Run = Callable[..., Told]


@pytest.fixture
def networks(
    tmp_path: Path, fresh_anvil: DevChain, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Return who writes the networks file, with *changes*, and says where it is."""
    path = tmp_path / "networks.toml"
    monkeypatch.setenv("NETWORKS_FILE", str(path))

    def write(**changes: object) -> Path:
        given = {"url": fresh_anvil.url, "token": fresh_anvil.token, "confirmations": 1}
        path.write_text(_NETWORKS.format(**(given | changes)), encoding="utf-8")
        return path

    write()
    return write


@pytest.fixture
def run(
    sqlite_url: str,
    networks: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Return who runs ``hotwallet`` over the test's ledger and networks."""
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("DATABASE_URL", sqlite_url)

    def hotwallet(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["hotwallet", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Told(left.value.code, *capsys.readouterr())

    return hotwallet


@pytest.fixture
def world(
    sqlite_store: SQLStore, fresh_anvil: DevChain, networks: Callable[..., Path]
) -> World:
    """Return a service that pays on anvil, with a wallet that is funded."""
    client = JSONRPCChain([fresh_anvil.url], timeout=10, chain_id=31337)
    network = load_networks(networks())["local"]
    world = World(sqlite_store, client=client, network=network)
    world.clock.now = utc_now()
    coin.fund(fresh_anvil.url, world.signer.address, token=fresh_anvil.token)
    return world


@pytest.fixture
def paid(world: World) -> Refund:
    """Return a refund that anvil has."""
    return world.broadcast()


def _spend(world: World, dev: DevChain, nonce: int) -> None:
    """Use the wallet's key as somebody else would."""
    account = Account.from_key(KEY.secret)
    raw = signed(account, nonce=nonce, data=b"\xf0\x0d")
    assert account.address == world.signer.address
    dev.rpc("eth_sendRawTransaction", "0x" + raw.hex())
    dev.rpc("evm_mine")


def _ledger(store: Store) -> object:
    wallets = store.wallets()
    return wallets, [store.foreign(each.chain_id, each.sender) for each in wallets]


def test_explains_to_people(run: Run, world: World, paid: Refund) -> None:
    """Status, reason, next step, history, transactions and nodes, a line each."""
    told = run("refund", "explain", paid.id)

    assert told.status == 0
    lines = told.out.splitlines()
    assert lines[0] == f"{paid.id}: broadcast"
    assert lines[1] == (
        "  1 of 1 nodes have it in a block, which no worker has looked at yet."
    )
    assert lines[2].startswith("  Next: The same bytes are sent again")
    history = lines[lines.index("History:") + 1 : lines.index("Transactions:")]
    assert [line.split()[-1] for line in history] == [
        "queued",
        "reserved",
        "signed",
        "broadcast",
    ]
    assert f"  {paid.tx_hash}  transfer, nonce 0" in told.out
    assert "  node-1: head " in told.out
    assert "Not known" not in told.out


def test_explains_to_programs(run: Run, world: World, paid: Refund) -> None:
    """--json prints the document of the API, and nothing else."""
    told = run("refund", "explain", "--json", paid.id)
    expected = explanation_document(world.explainer.explain(paid))

    assert told.status == 0
    assert told.json == expected


def test_explains_without_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    """While no node answers, the ledger's part is told, and what is missing."""
    networks(url="http://127.0.0.1:9")
    told = run("refund", "explain", paid.id)

    assert told.status == 0
    assert f"{paid.id}: broadcast" in told.out
    assert f"  {paid.tx_hash}  transfer, nonce 0" in told.out
    assert "  node-1: chain-unavailable" in told.out
    assert "Not known: wallet (chain-unavailable)" in told.out
    assert "127.0.0.1:9" not in told.out + told.err


@pytest.mark.parametrize("unknown", ["rf_0", "", "../x"])
def test_an_unknown_refund(run: Run, unknown: str) -> None:
    """What is not in the ledger is an error in one line, and status 1."""
    told = run("refund", "explain", unknown)

    assert (told.status, told.out) == (1, "")
    assert told.err == "error: not-found: there is no such refund\n"


@pytest.mark.parametrize(
    "command", [("refund", "explain", "rf_0"), ("nonce", "repair")]
)
def test_an_unusable_configuration(
    run: Run, networks: Callable[..., Path], command: tuple[str, ...]
) -> None:
    """Without a networks file both refuse with its code, and status 78."""
    networks().unlink()
    told = run(*command)

    assert (told.status, told.out) == (78, "")
    assert "refused: networks-misconfigured" in told.err


def test_nothing_to_repair(run: Run, world: World) -> None:
    """A wallet that never paid is none, and one that only we use is in order."""
    before = run("nonce", "repair")
    world.broadcast()
    after = run("nonce", "repair")

    assert (before.status, before.out) == (0, "no wallet has paid anything yet\n")
    assert (after.status, after.out) == (
        0,
        f"local {world.signer.address}: next nonce 1, the chain's 1\n  in order\n",
    )


def test_a_dry_run_changes_nothing(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """R23: a paused wallet is shown with what is foreign, as it is; status 1."""
    _spend(world, fresh_anvil, 1)
    world.watched()
    before = _ledger(world.store)
    told = run("nonce", "repair")

    assert told.status == 1
    assert "  paused by chain-ahead" in told.out
    assert "  foreign: nonce 1, transaction 0x" in told.out
    assert "--apply" in told.out
    assert before == _ledger(world.store)


def test_a_wallet_that_nobody_paused_yet(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """R23: a chain that is ahead is told, also before any worker has seen it."""
    _spend(world, fresh_anvil, 1)
    told = run("nonce", "repair")

    assert told.status == 1
    assert "next nonce 1, the chain's 2\n  paused by nobody yet" in told.out
    assert "1 of the chain's transactions not looked at yet" in told.out
    assert "in order" not in told.out


def test_apply_lets_the_wallet_go_on(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """R23: what is foreign is accepted, and the next refund gets the next nonce."""
    for nonce in (1, 2):
        _spend(world, fresh_anvil, nonce)
    world.work()
    applied = run("nonce", "repair", "--apply")
    again = run("nonce", "repair")

    assert (applied.status, again.status) == (0, 0)
    assert "  resumed" in applied.out
    assert "next nonce 3, the chain's 3\n  in order" in again.out
    assert world.broadcast().nonce == 3


def test_apply_waits_for_finality(
    run: Run,
    world: World,
    paid: Refund,
    fresh_anvil: DevChain,
    networks: Callable[..., Path],
) -> None:
    """What a reorganisation could take away is not accepted yet; status 1 again."""
    _spend(world, fresh_anvil, 1)
    world.network = load_networks(networks(confirmations=1000))["local"]
    world.watched()
    told = run("nonce", "repair", "--apply")

    assert told.status == 1
    assert "  paused by chain-ahead" in told.out
    assert "  1 of the chain's transactions not looked at yet" in told.out
    assert "not final yet" in told.out


def test_repairs_for_programs(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """--json prints one array, with what was foreign before and what is done."""
    _spend(world, fresh_anvil, 1)
    world.watched()
    (looked,) = run("nonce", "repair", "--json").json
    (applied,) = run("nonce", "repair", "--apply", "--json").json

    assert (looked["network"], looked["address"]) == ("local", world.signer.address)
    assert (looked["paused_by"], looked["resumed"]) == ("chain-ahead", False)
    assert [sighting["nonce"] for sighting in looked["foreign"]] == [1]
    assert (applied["paused_by"], applied["resumed"]) == (None, True)
    assert (applied["next_nonce"], applied["chain_next_nonce"]) == (2, 2)
    assert (applied["foreign"], applied["stopped_at"]) == ([], None)


def test_one_network_alone(run: Run, paid: Refund) -> None:
    """--network chooses; a name that is not in the file is an error."""
    known = run("nonce", "repair", "--network", "local")
    unknown = run("nonce", "repair", "--network", "mainnet")

    assert known.out.startswith("local ")
    assert (unknown.status, unknown.out) == (1, "")
    assert unknown.err.startswith("error: not-found: ")


def test_repair_needs_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    """Without a node nothing is known of the nonces: an error, and status 1."""
    networks(url="http://127.0.0.1:9")
    told = run("nonce", "repair")

    assert (told.status, told.out) == (1, "")
    assert "error: chain-unavailable: " in told.err
    assert "127.0.0.1:9" not in told.err


def test_the_kill_switch(
    run: Run, world: World, paid: Refund, networks: Callable[..., Path]
) -> None:
    """R27: pause needs no node, holds until somebody ends it, and can be repeated."""
    networks(url="http://127.0.0.1:9")
    first = run("nonce", "pause")
    again = run("nonce", "pause")
    networks()
    waiting = world.accepted()
    world.work()
    blocked = world.stored(waiting).blocked_by
    repaired = run("nonce", "repair", "--apply")
    (document,) = run("nonce", "repair", "--json").json
    explained = run("refund", "explain", waiting.id)
    resumed, twice = run("nonce", "resume"), run("nonce", "resume")

    assert first == Told(0, "local: paused\n", first.err)
    assert again == Told(0, "local: was paused already\n", again.err)
    assert blocked == "wallet-paused"
    assert (repaired.status, "  in order" in repaired.out) == (0, True)
    assert "  an operator stopped the network at " in repaired.out
    assert "`hotwallet nonce resume` ends that\n" in repaired.out
    assert document["stopped_at"] is not None
    assert "an operator stopped the network" in explained.out
    assert resumed == Told(0, "local: goes on\n", resumed.err)
    assert twice == Told(0, "local: was not paused\n", twice.err)
    world.work(after=timedelta(seconds=60))
    assert world.stored(waiting).nonce == 1


def test_the_kill_switch_of_one_network(run: Run, paid: Refund) -> None:
    """A network that is not in the file is an error, and nothing is paused."""
    unknown = run("nonce", "pause", "--network", "mainnet")
    known = run("nonce", "pause", "--network", "local")

    assert (unknown.status, unknown.out) == (1, "")
    assert known.out.endswith(": paused\n")


def test_a_blocked_key_is_waited_for_no_more(run: Run, world: World) -> None:
    """Only a key that was given up can be abandoned; each network says how it stood."""
    asked = ("nonce", "abandon", world.signer.address)
    world.broadcast()
    refused = run(*asked)
    new = key_at("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
    made_active(world.store, new, block=True)
    first, again = run(*asked), run(*asked, "--network", "local")

    assert (refused.status, refused.out) == (1, "")
    assert "error: conflict: " in refused.err
    assert (first.status, first.out) == (0, "local: goes on\n")
    assert (again.status, again.out) == (0, "local: was not waiting\n")


def test_who_switched_is_on_record(
    run: Run, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each switch leaves intent and outcome with a name; a look leaves nothing."""
    monkeypatch.setenv("LOGNAME", "alice")
    run("nonce", "repair")
    run("nonce", "pause")
    run("nonce", "resume", "--network", "mainnet")
    told = run("nonce", "repair", "--apply")
    sqlite_store.seal()
    records = [each.record.fields for each in sqlite_store.sealed(0, 100)]

    assert [(each["event"], each["outcome"], each["actor"]) for each in records] == [
        ("nonce-pause-requested", "success", "cli:alice"),
        ("nonce-pause-succeeded", "success", "cli:alice"),
        ("nonce-resume-requested", "success", "cli:alice"),
        ("nonce-resume-refused", "not-found", "cli:alice"),
        ("nonce-repair-requested", "success", "cli:alice"),
        ("nonce-repair-succeeded", "success", "cli:alice"),
    ]
    assert '"event": "nonce-repair-succeeded"' in told.err
    assert told.out == "no wallet has paid anything yet\n"


def test_a_user_without_a_name_is_told_by_his_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container need not name anybody, and the kill switch works all the same."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)

    assert invoker() == Actor("cli:uid-4000000001")


def test_a_user_whose_name_nobody_can_write_throws_the_switch(
    run: Run, sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of other bytes than UTF-8 has does not keep the record from being made."""
    monkeypatch.setenv("LOGNAME", "al\udcffce")
    run("nonce", "pause", "--network", "local")
    sqlite_store.seal()
    records = [each.record.fields for each in sqlite_store.sealed(0, 100)]

    assert {each["actor"] for each in records} == {"cli:al?ce"}
    assert invoker() == Actor("cli:al?ce")  # The ring has it as well, by who blocked.
