"""One transaction that pays several refunds: claimed, moved and ended together."""

import pytest

from backends.sql import SQLStore
from signer.errors import RowNotAuthenticError, StaleStateError
from signer.model.refund import Status
from signer.model.transaction import Transaction, TransactionStatus
from tests.fixtures.batches import BLOCK, MINED, batch_of, moved
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
from tests.support.audit import overruled, record


NOWHERE = "sender = NULL, nonce = NULL, position = NULL"


@pytest.fixture
def shared(store: SQLStore) -> Transaction:
    """A reserved transaction that pays two refunds."""
    opened(store)
    return batch_of(store, accepted(store), accepted(store))


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
        made = batch_of(store, accepted(store), accepted(store), nonce=nonce)
        attempt = transaction(made.payments[0])
        signed = made.with_status(
            TransactionStatus.SIGNED, now(), tx_hash=attempt.tx_hash
        )
        save(store, made, signed, attempt)
        save(store, signed, signed.with_status(TransactionStatus.BROADCAST, now()))

    first, second = store.in_flight(9)

    whole = store.with_payments([first.transaction, second.transaction])
    assert [len(each.payments) for each in whole] == [2, 2]
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


FINAL = (*MINED, TransactionStatus.CONFIRMED)


QUEUE_AGAIN = f"UPDATE refunds SET state = 'queued', {NOWHERE} WHERE id = '{{}}'"


@pytest.mark.parametrize("left", [0, 1], ids=["first", "last"])
def test_a_final_transaction_keeps_the_payments_that_are_queued_again(
    store: SQLStore, database_url: str, shared: Transaction, left: int
) -> None:
    """Memberships say which it had; its digest proves it."""
    confirmed = moved(store, shared, *FINAL)
    ids = [each.id for each in shared.payments]
    overruled(
        database_url,
        f"INSERT INTO transaction_payments VALUES ('{accepted(store).id}',"
        f" 31337, '{WALLET}', 0, 2)",
    )
    overruled(database_url, QUEUE_AGAIN.format(shared.payments[left].id))

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    assert found.payment_ids == (*ids,)
    assert [each.id for each in found.payments] == [ids[1 - left]]
    store.require_authentic(found)
    store.require_authentic(stored(store, confirmed.payments[0]))
    store.require_authentic(stored(store, confirmed.payments[1]))


def test_an_open_transaction_has_all_of_its_payments(
    store: SQLStore, database_url: str, shared: Transaction
) -> None:
    """One is taken out of it by another program only: the others wait."""
    first, second = shared.payments
    overruled(database_url, QUEUE_AGAIN.format(second.id))

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    for moving in (found, stored(store, first)):
        with pytest.raises(RowNotAuthenticError):
            store.require_authentic(moving)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM transaction_payments WHERE payment_id = '{}'",
        "UPDATE transaction_payments SET position = 7 WHERE payment_id = '{}'",
    ],
    ids=["deleted", "moved"],
)
def test_a_final_transaction_with_another_membership_is_not_authentic(
    store: SQLStore, database_url: str, shared: Transaction, change: str
) -> None:
    first, second = moved(store, shared, *FINAL).payments
    overruled(database_url, change.format(first.id))
    overruled(database_url, QUEUE_AGAIN.format(first.id))

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    for moving in (found, stored(store, second)):
        with pytest.raises(RowNotAuthenticError):
            store.require_authentic(moving)


def test_a_stranger_of_a_final_transaction_is_not_its_payment(
    store: SQLStore, database_url: str, shared: Transaction
) -> None:
    """Also in the place of one that is queued again."""
    _, second = moved(store, shared, *FINAL).payments
    other = accepted(store)
    overruled(database_url, QUEUE_AGAIN.format(second.id))
    overruled(
        database_url,
        f"UPDATE refunds SET state = 'assigned', sender = '{WALLET}', nonce = 0,"
        f" position = 1 WHERE id = '{other.id}'",
    )

    found = store.find_transaction(31337, WALLET, 0)

    assert found is not None
    assert [each.id for each in found.strangers] == [other.id]
    store.require_authentic(found)
    with pytest.raises(RowNotAuthenticError):
        store.require_authentic(stored(store, other))
