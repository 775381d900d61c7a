"""
Real processes on chains where the stablecoin pays for gas: Arc and Tempo.

On Arc it is the coin: anvil has the precompile of Celo's chains, which moves coin for a
token, so that the EVM itself keeps one balance (``dev/stablecoin/GasUSD.sol``).  Tempo
has no coin, and its own rules in anvil: transactions of type 0x76 name the token.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from dev import stablecoin
from dev.stack import Process, Stack, is_ready, running_stack
from dev.vault import create_key
from tests.e2e.gateway import RECIPIENT, Gateway
from tests.support.forked_processes import ForkedHotWallet
from tests.support.waiting import eventually


UNIT = 10**12
"""Wei of a base unit of the token."""


@pytest.fixture(params=["arc", "tempo"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(tmp_path: Path, kind: str) -> Iterator[Stack]:
    with running_stack(
        tmp_path / "home", kind=kind, program=ForkedHotWallet()
    ) as running:
        yield running


def test_gas_is_paid_in_the_token(stack: Stack, kind: str) -> None:
    """A refund, a rotation with its sweep, a restored ledger; and the books agree."""
    gateway = Gateway.of(stack)
    before = _received(stack)
    _pay(gateway, stack.address)
    second = _rotate(stack, kind)
    _pay(gateway, second)
    _pay_and_restore(stack, gateway)

    assert _received(stack) - before == 3 * 1_250_000
    books = _reconcile(stack)
    assert books["ok"], books
    (network,) = books["networks"]
    accounts = {each["wallet"]: each for each in network["accounts"]}
    assert {each["asset"] for each in network["accounts"]} == {"TUSD"}
    first, last = accounts[stack.address], accounts[second]
    assert float(first["sweeps"]) > 999_990
    assert first["received"] == f"1000000.{'0' * 18}"
    assert last["refunds"] == f"2.5{'0' * 17}"
    assert float(last["fees"]) > 0
    assert int(last["closing_units"]) // UNIT == _balance(stack, second)


def _received(stack: Stack) -> int:
    return _balance(stack, RECIPIENT)


def _balance(stack: Stack, address: str) -> int:
    return stablecoin.balance_of(stack.chain_url, stack.token, address)


def _pay(gateway: Gateway, sender: str) -> None:
    _, _, refund = gateway.post(amount="1.25")
    assert gateway.wait(refund["id"], "confirmed")["sender"] == sender


def _rotate(stack: Stack, kind: str) -> str:
    """Rotate to a new key, which gets all of the balance; return its address."""
    key_id, address = create_key(stack, "02")
    stablecoin.fund(stack.chain_url, address, amount=10**6, kind=kind)
    stack.command("keys", "rotate", key_id, "--yes")
    sweep = ("keys", "sweep", stack.address, "--yes")
    assert eventually(
        lambda: "nothing is left there" in stack.command(*sweep), 60, pause=1
    )
    assert _balance(stack, address) > 999_990 * 10**6
    return address


def _pay_and_restore(stack: Stack, gateway: Gateway) -> None:
    """Restore the ledger from a moment before a refund was paid."""
    ledger, backup = stack.home / "hotwallet.db", stack.home / "backup.db"
    _end(stack.processes["worker"])
    _, _, refund = gateway.post(amount="1.25")
    with closing(sqlite3.connect(ledger)) as db, closing(sqlite3.connect(backup)) as to:
        db.backup(to)
    with stack.service("worker", log="worker-2"):
        paid = gateway.wait(refund["id"], "confirmed")
    _end(stack.processes["serve"])
    for each in stack.home.glob("hotwallet.db-*"):
        each.unlink()
    backup.rename(ledger)
    logs = [word for path in stack.home.glob("*.log") for word in ("--log", str(path))]
    stack.command("restore", *logs, "--yes")
    with _again(stack):
        found = gateway.wait(refund["id"], "confirmed")

    assert found["tx_hash"] == paid["tx_hash"]


def _end(process: Process) -> None:
    process.send_signal(SIGTERM)
    process.wait(30)


@contextmanager
def _again(stack: Stack) -> Iterator[None]:
    with stack.service("serve", log="again"), stack.service("worker", log="worker-3"):
        assert eventually(lambda: is_ready(stack.url), 60)
        yield


def _reconcile(stack: Stack) -> Any:
    start = datetime.now(UTC) - timedelta(hours=1)
    end = start + timedelta(hours=2)
    moments = (each.isoformat(timespec="seconds") for each in (start, end))
    options = zip(("--from", "--to"), moments, strict=True)
    output = stack.command(
        "reconcile", *(word for option in options for word in option), "--json"
    )
    return json.loads(output)
