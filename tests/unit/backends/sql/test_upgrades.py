"""Upgrades of a ledger that an older release wrote."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, fields
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from backends.sql import SQLStore
from backends.sql.schema import HEAD
from signer.errors import StoreError
from signer.model.key import Key, KeyState
from signer.model.refund import (
    EPOCH,
    Kind,
    Move,
    Refund,
    SignedTransaction,
    Status,
)
from signer.model.wallet import Wallet
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    later,
    queued,
    reserved,
)


THEN = datetime(2026, 11, 1, 12, 30, 0, 123456, tzinfo=UTC)

# What the first release had no columns for.
ADDED = ("due_at", "attempts", "blocked_by", "intent_recorded")
FIRST = [f.name for f in fields(Refund) if f.name not in ADDED]


@pytest.fixture
def old(empty_url: str) -> Iterator[SQLStore]:
    """Return a store on each database in turn, with the tables of the first release."""
    store = SQLStore(empty_url)
    store._database.migration(_upgrade_to_0001, timeout=5)
    yield store
    store.close()


def _upgrade_to_0001(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    config = Config()
    config.set_main_option("script_location", "backends.sql:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


def _old(status: Status, **changes: Any) -> Refund:
    """Return a refund of the first release, which reads as due at once."""
    return queued(
        status=status,
        created_at=THEN,
        updated_at=THEN,
        due_at=EPOCH,
        **changes,
    )


def _reserved(status: Status, nonce: int, **changes: Any) -> Refund:
    wallet = {"sender": WALLET, "key_id": "01", "gas_limit": 65_000, "nonce": nonce}
    return _old(status, **{**wallet, **changes})


REFUNDS = {
    "queued": _old(Status.QUEUED),
    "cancelled": _old(Status.CANCELLED),
    "reserved": _reserved(Status.RESERVED, 8, version=1),
    "broadcast": _reserved(Status.BROADCAST, 7, version=3, tx_hash="0x07"),
    "mined": _reserved(
        Status.MINED, 6, version=4, tx_hash="0x06", block_number=9, block_hash="0xb9"
    ),
    "confirmed": _reserved(
        Status.CONFIRMED, 5, tx_hash="0x05", block_number=8, block_hash="0xb8"
    ),
    "elsewhere": _reserved(Status.FAILED, 0, chain_id=1, sender=OTHER_WALLET),
}

SENT = SignedTransaction(
    tx_hash="0x07",
    refund_id=REFUNDS["broadcast"].id,
    attempt=0,
    kind=Kind.TRANSFER,
    chain_id=31337,
    sender=WALLET,
    nonce=7,
    max_fee_per_gas=2 * 10**9,
    max_priority_fee_per_gas=10**9,
    gas_limit=65_000,
    raw=b"\x02signed bytes",
    signed_at=THEN,
)

KEY = Key("pkcs11", "01", WALLET, KeyState.ACTIVE, THEN, THEN)

MOVE = Move(REFUNDS["broadcast"].id, 3, Status.BROADCAST, THEN)


def _insert(connection: Connection, table: str, row: Mapping[str, Any]) -> None:
    """Insert *row* in plain SQL, as the first release's columns hold it."""
    names = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    statement = text(f"INSERT INTO {table} ({names}) VALUES ({places})")
    connection.execute(statement, {name: _plain(row[name]) for name in row})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    return str(value) if isinstance(value, Status | Kind) else value


def _fill(store: SQLStore) -> None:
    def work(connection: Connection) -> None:
        for refund in REFUNDS.values():
            row = {name: getattr(refund, name) for name in FIRST}
            _insert(connection, "refunds", {**row, "amount": f"{refund.amount:078d}"})
        fees = ("max_fee_per_gas", "max_priority_fee_per_gas")
        padded = {name: f"{getattr(SENT, name):078d}" for name in fees}
        _insert(connection, "transactions", {**asdict(SENT), **padded})
        _insert(connection, "refund_moves", asdict(MOVE))

    store._database.transaction(work)


def test_everything_is_still_there(old: SQLStore) -> None:
    """Refunds, signed bytes and history read back as they were, and are due."""
    _fill(old)
    with pytest.raises(StoreError, match="hotwallet db upgrade"):
        old.check()
    old.migrate()

    old.check()
    assert [*REFUNDS.values()] == [old.get(each.id) for each in REFUNDS.values()]
    assert old.transactions(SENT.refund_id) == (SENT,)
    assert [astuple(MOVE)] == [astuple(move) for move in old.history(MOVE.refund_id)]
    assert old.answer(MOVE.refund_id) is None


def test_the_upgrade_is_reported(old: SQLStore) -> None:
    """The report names both revisions; an old ledger is upgraded without *create*."""
    done = old.migrate(create=False)

    assert (done.action, done.before, done.after) == ("upgraded", "0001", HEAD)


def test_every_wallet_in_use_is_opened(old: SQLStore) -> None:
    """A wallet starts at the lowest reserved nonce and continues after the highest."""
    _fill(old)
    old.migrate()

    assert old.wallets() == (
        Wallet(1, OTHER_WALLET, 0, 1),
        Wallet(31337, WALLET, 5, 9),
    )
    old.enrol(KEY)
    assert reserved(old, accepted(old), key_id="01", counted=9).nonce == 9


def test_the_keys_that_paid_are_draining(old: SQLStore) -> None:
    """Keys that paid become draining, until a process enrols one as active."""
    _fill(old)
    old.migrate()
    before = old.keys()
    active = old.enrol(KEY)

    assert old.active_key() == active
    assert [(key.address, key.state, key.epoch) for key in before] == [
        (WALLET, KeyState.DRAINING, 1)
    ]
    assert (active.address, active.state, active.epoch) == (WALLET, KeyState.ACTIVE, 2)


def test_an_empty_ledger_has_no_wallets(old: SQLStore) -> None:
    """Where nothing was paid there is nothing to open."""
    old.migrate()

    assert old.wallets() == ()


def test_the_workers_take_it_up(old: SQLStore) -> None:
    """Open refunds can be claimed at once, and sent refunds are in flight."""
    _fill(old)
    old.migrate()
    claimed = old.claim(later(0), later(20), 10)
    flying = old.in_flight(10)

    assert {"queued", "reserved", "broadcast"} == {
        name
        for name, refund in REFUNDS.items()
        if refund.id in {found.id for found in claimed}
    }
    assert {("0x06",), ("0x07",)} == {one.tx_hashes for one in flying}
