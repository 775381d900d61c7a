"""One transaction that pays several refunds: claimed, moved and ended together."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection

from backends.sql import SQLStore
from backends.sql.prepared import execute
from backends.sql.statements import (
    INSERT_MEMBERSHIP,
    PLACE,
    RESERVE_TRANSACTION,
    fields_of,
    refund_values,
)
from backends.sql.tables import transactions
from signer.errors import RowNotAuthenticError, StaleStateError
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction, TransactionStatus, compose
from tests.fixtures.ledger import (
    WALLET,
    accepted,
    change_of,
    forge,
    later,
    now,
    opened,
    save,
    stored,
    transaction,
)
from tests.support.audit import record
from tests.support.keys import key_at


NOWHERE = "sender = NULL, nonce = NULL, position = NULL"
BLOCK: dict[str, Any] = {"block_number": 7, "block_hash": "0x" + "7" * 64}


def _shared(store: SQLStore, *refunds: Refund, nonce: int = 0) -> Transaction:
    """Return a new transaction of *refunds*, as a vault would reserve it."""
    macs = store._macs
    drafted = refunds[0].draft_transaction(
        now(), sender=WALLET, nonce=nonce, key_id=key_at(WALLET).key_id, gas_limit=9
    )
    composition = compose(each.id for each in refunds)
    row = macs.sealed(replace(drafted, composition=composition))
    placed = [
        replace(each.assigned(row), position=position)
        for position, each in enumerate(refunds)
    ]
    values = [
        {**refund_values(macs, before, after), **fields_of(transactions, row)}
        for before, after in zip(refunds, placed, strict=True)
    ]

    def work(connection: Connection) -> None:
        for each in values:
            connection.execute(PLACE, each)
        execute(connection, RESERVE_TRANSACTION, values[:1])
        execute(connection, INSERT_MEMBERSHIP, values)

    store._database.transaction(work)
    return row.paying(placed)


@pytest.fixture
def shared(store: SQLStore) -> Transaction:
    """A reserved transaction that pays two refunds."""
    opened(store)
    return _shared(store, accepted(store), accepted(store))


def test_payments_come_with_their_transaction(
    store: SQLStore, shared: Transaction
) -> None:
    """In the order of their positions, however it is read."""
    first, second = shared.payments
    (claimed,) = store.claim(later(30), later(41), 10)

    store.require_authentic(shared)
    assert [each.id for each in claimed.payments] == [first.id, second.id]
    assert store.find_transaction(31337, WALLET, 0) == claimed
    assert store.open_below(31337, WALLET, 9, 1) == (claimed,)
    assert shared.names == {"transaction": f"31337/{WALLET}/0"}
    with pytest.raises(RowNotAuthenticError):
        store.require_authentic(shared.paying([second, first]))


def test_payments_end_with_their_transaction(
    store: SQLStore, shared: Transaction
) -> None:
    """Each has the history and the events of a refund that is paid alone."""
    attempt = transaction(shared.payments[0])
    signed = shared.with_status(
        TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
    )
    save(store, shared, signed, attempt, record())
    sent = signed.with_status(TransactionStatus.BROADCAST, now())
    mined = sent.with_status(TransactionStatus.MINED, now(), **BLOCK)
    confirmed = mined.with_status(TransactionStatus.CONFIRMED, now())
    for before, after in ((signed, sent), (sent, mined), (mined, confirmed)):
        assert store.save_all([change_of(before, after)]) == [None]

    for payment in confirmed.payments:
        assert stored(store, payment) == payment
        assert payment.status is Status.CONFIRMED
        assert [move.status for move in store.history(payment.id)] == [
            *(Status.QUEUED, Status.SIGNED, Status.BROADCAST),  # Placed by hand.
            *(Status.MINED, Status.CONFIRMED),
        ]
    assert store.in_flight(9) == ()


def test_the_reason_of_a_noop_is_that_of_each_payment(
    store: SQLStore, shared: Transaction
) -> None:
    """It is kept until the no-op is final."""
    failure = {"failure_code": "reverted", "failure_detail": "it would revert"}
    failed = shared.with_status(TransactionStatus.FAILED, now(), failure=failure)
    save(store, shared, failed)

    for payment in failed.payments:
        found = stored(store, payment)
        assert (found.status, found.failure_code) == (Status.FAILED, "reverted")


def test_a_stale_transaction_changes_no_payment(
    store: SQLStore, shared: Transaction
) -> None:
    """All of them are changed, or none."""
    save(store, shared, shared.with_due_at(later(1)))
    failed = shared.with_status(
        TransactionStatus.FAILED, now(), failure={"failure_code": "reverted"}
    )

    with pytest.raises(StaleStateError):
        save(store, shared, failed)
    assert {stored(store, each).status for each in shared.payments} == {Status.RESERVED}


def test_transactions_in_flight_are_whole(store: SQLStore) -> None:
    """A limit counts transactions, not what they pay."""
    opened(store)
    for nonce in range(2):
        made = _shared(store, accepted(store), accepted(store), nonce=nonce)
        attempt = transaction(made.payments[0])
        signed = made.with_status(
            TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
        )
        save(store, made, signed, attempt)
        save(store, signed, signed.with_status(TransactionStatus.BROADCAST, now()))

    first, second = store.in_flight(9)

    assert [len(each.transaction.payments) for each in (first, second)] == [2, 2]
    assert store.in_flight(1) == (first,)
    assert store.in_flight(1, after=first.transaction) == (second,)


@pytest.mark.parametrize(
    "change",
    [
        "version = version + 1",
        f"version = version + 1, state = 'queued', {NOWHERE}",
    ],
    ids=["changed", "taken out"],
)
def test_a_signature_compares_each_payment(
    store: SQLStore, shared: Transaction, change: str
) -> None:
    """Another transaction may pay one that is changed or taken out meanwhile."""
    first, second = shared.payments
    attempt = transaction(first)
    signed = shared.with_status(
        TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
    )
    forge(store, f"UPDATE refunds SET {change} WHERE id = '{second.id}'")

    with pytest.raises(StaleStateError):
        save(store, shared, signed, attempt)

    found = store.find_transaction(31337, WALLET, 0)
    assert found is not None
    assert found.status is TransactionStatus.RESERVED
    assert store.attempts(shared) == ()
    assert stored(store, first).status is Status.RESERVED
