"""``hotwallet nonce``, on anvil."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from eth_account import Account

from api.cli.operator import current_operator
from backends.sql import SQLStore
from signer.model.audit_record import Actor
from signer.model.refund import Refund
from tests.api.commands import Run
from tests.fixtures.chain import DevChain
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


def test_a_dry_run_names_open_fillers(run: Run, world: World, paid: Refund) -> None:
    """They hold up the nonces above theirs, and no refund shows them."""
    world.fill(1)
    finished = run("nonce", "repair", "--dry-run")
    (looked,) = run("nonce", "repair", "--json", "--dry-run").json

    assert "  open filler: nonce 1, reserved" in finished.out
    assert looked["fillers"] == [{"nonce": 1, "status": "reserved", "blocked_by": None}]


def test_repair_resumes_the_wallet(
    run: Run, world: World, paid: Refund, fresh_anvil: DevChain
) -> None:
    """
    R23: foreign transactions are accepted; the next refund gets the next nonce.

    ``tests/api/actions`` has what else the command prints.
    """
    for nonce in (1, 2):
        _spend(world, fresh_anvil, nonce)
    unnoticed = run("nonce", "repair", "--dry-run")
    world.work()
    planned = run("nonce", "repair", "--dry-run")
    applied = run("nonce", "repair", "--yes")
    again = run("nonce", "repair", "--dry-run")

    statuses = [each.status for each in (unnoticed, planned, applied, again)]
    assert statuses == [1, 1, 0, 0]
    assert "  not paused yet: a worker will pause it" in unnoticed.out
    assert "in order" not in unnoticed.out
    assert "  foreign: nonce 1, transaction 0x" in planned.out
    assert "to accept this and resume the wallet: omit --dry-run" in planned.out
    assert "  resumed" in applied.out
    assert "next nonce 3, the chain's 3\n  in order" in again.out
    assert world.broadcast().nonce == 3


def test_repair_needs_nodes(
    run: Run, networks: Callable[..., Path], paid: Refund
) -> None:
    networks(url="http://127.0.0.1:9")
    finished = run("nonce", "repair", "--dry-run")

    assert (finished.status, finished.out) == (1, "")
    assert "error: chain-unavailable: " in finished.err
    assert "127.0.0.1:9" not in finished.err


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
