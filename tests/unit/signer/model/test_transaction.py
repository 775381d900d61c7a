"""The statuses of a transaction, its legal moves, and the digest of its payments."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from time import process_time
from typing import Any

import pytest

from signer.model.payment import PaymentState
from signer.model.transaction import (
    TRANSACTION_MOVES,
    PaymentEnd,
    Transaction,
    TransactionStatus,
    compose,
)
from tests.fixtures.ledger import queued


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _transaction(status: TransactionStatus) -> Transaction:
    return queued(status=status, tx_hash="0x1").reserved()


@pytest.mark.parametrize(
    ("before", "after"), list(product(TransactionStatus, TransactionStatus))
)
def test_only_legal_moves_are_possible(
    before: TransactionStatus, after: TransactionStatus
) -> None:
    """A legal move increases the version; another one raises ValueError."""
    transaction = replace(
        _transaction(before), attempts=3, blocked_by="chain-unavailable"
    )
    due_at = NOW + timedelta(seconds=7)

    if after in TRANSACTION_MOVES[before]:
        moved = transaction.with_status(after, NOW, due_at=due_at, tx_hash="0x2")

        assert replace(moved, payments=()) == replace(
            transaction,
            payments=(),
            status=after,
            updated_at=NOW,
            version=1,
            due_at=due_at,
            attempts=0,
            blocked_by=None,
            tx_hash="0x2",
        )
    else:
        with pytest.raises(ValueError, match=f"from {before} to {after}"):
            transaction.with_status(after, NOW, due_at=due_at)


def test_the_digest_of_payments_is_that_of_stored_rows() -> None:
    """Another one would make each stored transaction not authentic."""
    assert compose(["rf_1", "rf_2"]) == (
        "0d20b34df9f1cb30a819523a5f31818b47b5e1f5e289e2d4ce7b086bdb01b4b5"
    )
    given = [["a"], ["b"], ["a", "b"], ["b", "a"], ["a", "b", "b"], []]
    assert len({compose(each) for each in given}) == len(given)


def test_refunds_of_other_programs_are_told_apart_in_one_pass() -> None:
    """However many they are: each read of the transaction does it again."""
    own = queued(status=TransactionStatus.RESERVED)
    strangers = [replace(own, id=f"rf_{n:032x}", position=n) for n in range(20_000)]
    invented = replace(own.reserved(), composition=compose(["other"]))
    begin = process_time()

    found = own.reserved().paying_own([own, *strangers[1:]])
    none = invented.paying_own(strangers)

    assert [each.id for each in found.payments] == [own.id]
    assert len(found.strangers) == 19_999
    assert len(none.payments) == 20_000
    assert process_time() - begin < 5


VAULT = "0x0165878A594ca255338adfa4d48449f69242Eb8F"
PAID = PaymentEnd(PaymentState.CONFIRMED)
FAILED = PaymentEnd(PaymentState.FAILED, {"failure_code": "reverted"})
QUEUED = PaymentEnd(PaymentState.QUEUED, due_at=NOW, blocked_by="above-day-cap")


def _batch(
    status: TransactionStatus = TransactionStatus.MINED, count: int = 3
) -> Transaction:
    given = [queued() for _ in range(count)]
    row = Transaction.draft(
        given,
        NOW,
        sender=given[0].recipient,
        nonce=7,
        key_id="01",
        gas_limit=9,
        vault=VAULT,
        status=status,
    )
    row = replace(row, version=5)
    placed = [each.assigned(row, place) for place, each in enumerate(given)]
    return row.paying(placed)


def _ends(batch: Transaction, *ends: PaymentEnd) -> dict[str, PaymentEnd]:
    return dict(zip(batch.payment_ids, ends, strict=True))


def test_each_payment_of_a_batch_ends_on_its_own() -> None:
    batch = _batch()

    after = batch.with_status(
        TransactionStatus.CONFIRMED, NOW, ends=_ends(batch, PAID, FAILED, QUEUED)
    )

    paid, failed, queued_again = after.payments
    assert [each.state for each in after.payments] == ["confirmed", "failed", "queued"]
    assert failed.failure_code == "reverted"
    assert paid.failure_code is None
    assert (queued_again.nonce, queued_again.transaction) == (None, None)
    assert queued_again.due_at == NOW
    assert queued_again.blocked_by == "above-day-cap"
    assert queued_again.revision == batch.payments[2].revision + 1
    assert after.payment_ids == batch.payment_ids
    assert after.is_composed


def test_a_payment_that_is_queued_again_has_no_reason_of_a_noop() -> None:
    """It was saved with all payments when the no-op was signed."""
    batch = _batch()
    reason: dict[str, Any] = {
        "failure_code": "reverted",
        "failure_detail": "of another one",
    }
    batch = batch.paying(replace(each, **reason) for each in batch.payments)

    after = batch.with_status(
        TransactionStatus.FAILED, NOW, ends=_ends(batch, QUEUED, QUEUED, QUEUED)
    )

    codes = {(each.failure_code, each.failure_detail) for each in after.payments}
    assert codes == {(None, None)}


def test_a_payment_that_another_program_ended_stays() -> None:
    batch = _batch()
    ended = replace(batch.payments[0], state=PaymentState.FAILED)
    batch = batch.paying([ended, *batch.payments[1:]])

    after = batch.with_status(
        TransactionStatus.CONFIRMED, NOW, ends=_ends(batch, PAID, PAID, PAID)
    )

    assert [each.state for each in after.payments] == [
        *("failed", "confirmed", "confirmed")
    ]


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (TransactionStatus.FAILED, PAID),
        (TransactionStatus.BROADCAST, QUEUED),
        (TransactionStatus.CONFIRMED, PaymentEnd(PaymentState.CANCELLED)),
    ],
)
def test_no_payment_ends_against_its_batch(
    status: TransactionStatus, end: PaymentEnd
) -> None:
    """Nor before that is final."""
    batch = _batch()

    with pytest.raises(ValueError, match="no payment of a batch"):
        batch.with_status(status, NOW, ends=_ends(batch, QUEUED, QUEUED, end))


def test_each_payment_of_a_batch_has_an_end() -> None:
    """Payments of another kind have none of their own."""
    batch = _batch()
    plain = _transaction(TransactionStatus.MINED)
    confirmed = TransactionStatus.CONFIRMED

    with pytest.raises(ValueError, match="each payment of a batch"):
        batch.with_status(confirmed, NOW, ends={batch.payment_ids[0]: PAID})
    with pytest.raises(ValueError, match="each payment of a batch"):
        plain.with_status(confirmed, NOW, ends=_ends(plain, PAID))
