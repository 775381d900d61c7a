"""Saves what a step moved: another status, or the same one with a later due date."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import structlog

from signer.alerts import Alerts
from signer.errors import RowNotAuthenticError
from signer.model.audit_record import Record
from signer.model.payment import OPEN_STATES, PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import (
    TRANSACTION_MOVES,
    Transaction,
    TransactionKind,
    TransactionStatus,
)
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.meter import Meter
from signer.ports.refund_store import Change


Moving = Refund | Transaction
"""What a step moves: a refund that has no nonce, or from then on a transaction."""

Outcome = Moving | Exception
"""What it is after the step, or why the step failed."""


class Outcomes(dict[str, Outcome]):
    """
    The outcomes of a batch, by the ids of what it moves.

    An error of one is its outcome, and does not end the batch.
    """

    @contextmanager
    def capture(self, moving: Moving) -> Iterator[None]:
        """Keep an error that leaves the context as the outcome of *moving*."""
        try:
            yield
        except Exception as e:  # noqa: BLE001 - one refund's bug must not stop others.
            self[moving.id] = e


REBROADCAST_AFTER = timedelta(seconds=30)
"""How long a transaction waits before it is broadcast again."""


CHECKS_VALID_FOR = timedelta(seconds=0.5)
"""
How long after a commit a transaction is signed, or sent, without new checks.

The commit itself checks that the key may sign, and that no stop forbids it.  A batch
that takes longer reads both again (``IntentChecks``).
"""


MAX_RETRY_DELAY = timedelta(seconds=30)
"""The longest delay after a failed step, however often it failed."""


class SavedSteps:
    """
    Saves moves; each is one compare-and-set on the version.

    Methods raise ``StaleStateError`` if another process changed what they move.
    """

    def __init__(self, store: Ledger, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("refunds")

    def move(
        self,
        refund: Refund,
        state: PaymentState,
        *,
        record: Record | None = None,
        **changes: Any,
    ) -> Refund:
        """Save *refund* with *state* and *changes*, and an audit record; return it."""
        after = refund.with_state(state, self._clock(), **changes)
        self._store.save(refund, after, record=record)
        if state not in OPEN_STATES:
            log_final_status(self._log, after)
        return after

    def move_transaction(
        self, transaction: Transaction, status: TransactionStatus, **changes: Any
    ) -> Transaction:
        """Save *transaction* with *status* and *changes*, and return it."""
        after = transaction.with_status(status, self._clock(), **changes)
        self._store.save(transaction, after)
        log_ends(self._log, after)
        return after

    def recheck_later(self, transaction: Transaction) -> Transaction:
        """Save *transaction* as it is, due after ``REBROADCAST_AFTER``."""
        after = transaction.with_due_at(self._clock() + REBROADCAST_AFTER)
        self._store.save(transaction, after)
        return after

    def recheck_all_later(
        self, transactions: Sequence[Transaction], outcomes: Outcomes
    ) -> None:
        """``recheck_later`` for each of *transactions*, in one commit."""
        due_at = self._clock() + REBROADCAST_AFTER
        self.save_all(
            [Change(each, each.with_due_at(due_at)) for each in transactions], outcomes
        )

    def save_all(self, changes: Sequence[Change], outcomes: Outcomes) -> None:
        """Save *changes* in one transaction; each has what it moved, or its error."""
        errors = self._store.save_all(changes)
        for change, error in zip(changes, errors, strict=True):
            outcomes[change.before.id] = error or change.after


def is_just_committed(transaction: Transaction, now: datetime) -> bool:
    """Return whether the checks of the last commit of *transaction* are valid now."""
    return is_valid_since(transaction.updated_at, now)


def is_valid_since(at: datetime, now: datetime) -> bool:
    """Return whether checks that were made after *at* are valid now."""
    # A clock may have been set back.
    return timedelta(0) <= now - at <= CHECKS_VALID_FOR


def delay_after(failures: int, longest: timedelta = MAX_RETRY_DELAY) -> timedelta:
    """Return how long to wait after *failures* failures: it doubles each time."""
    return min(timedelta(seconds=2 ** min(failures, 10)), longest)


def report_strangers(alarm: Alerts, moving: Iterable[Moving]) -> None:
    """Report refunds that another program pointed to a transaction of others."""
    for each in moving:
        for stranger in each.strangers:
            error = RowNotAuthenticError(
                f"the refund {stranger.id} is not in the transaction that its row"
                " names: another program changed it"
            )
            alarm.report_row(error, stranger.id)


def count_moves(meter: Meter, before: Mapping[str, Refund], after: Moving) -> None:
    """Count that each refund of *after* has moved; *before* has them by their ids."""
    for each in after.payments:
        meter.moved(before[each.id], each)


def log_ends(log: structlog.stdlib.BoundLogger, transaction: Transaction) -> None:
    """Log that *transaction* is final if it is, with what it has or has not paid."""
    if TRANSACTION_MOVES[transaction.status]:
        return
    shown = transaction.payments
    if transaction.kind is TransactionKind.BATCH:
        paid = [each.id for each in shown if each.status is Status.CONFIRMED]
        shown = tuple(each for each in shown if each.status is not Status.CONFIRMED)
        if paid:  # One line for all, as they have one transaction.
            names = {"transaction": transaction.id, "refund_ids": paid}
            log.info("refund-ended", **names, status=str(Status.CONFIRMED), code=None)
    for payment in shown:
        if payment.status.is_final:
            log_final_status(log, payment)
        else:
            log.warning(
                "refund-queued-again",
                refund_id=payment.id,
                transaction=transaction.id,
                code=payment.blocked_by,
            )
    if transaction.kind is TransactionKind.FILLER:
        names = {"transaction": transaction.id, "status": str(transaction.status)}
        log.info("filler-ended", **names)


def log_final_status(log: structlog.stdlib.BoundLogger, refund: Refund) -> None:
    """Log that *refund* is final; a failed one is an error, for an operator."""
    write = log.error if refund.status is Status.FAILED else log.info
    write(
        "refund-ended",
        refund_id=refund.id,
        status=str(refund.status),
        code=refund.failure_code,
    )
