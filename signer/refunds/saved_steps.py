"""Saves changes of a refund: another status, or the same one with a later due date."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from signer.model.audit_record import Record
from signer.model.refund import PaymentPurpose, Refund, Status
from signer.outcomes import require
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change
from signer.refunds.step_outcomes import Outcomes


REBROADCAST_AFTER = timedelta(seconds=30)
"""How long a transaction waits before it is broadcast again."""


CHECKS_VALID_FOR = timedelta(seconds=0.5)
"""
How long after a commit a refund is signed, or sent, without new checks.

The commit itself checks that the key may sign, and that no stop forbids it.
"""


MAX_RETRY_DELAY = timedelta(seconds=30)
"""The longest delay after a failed step, however often it failed."""


class SavedSteps:
    """
    Saves refunds; each change is one compare-and-set on the version.

    ``move`` and ``recheck_later`` raise ``StaleStateError`` if another process changed
    the refund.
    """

    def __init__(self, store: Ledger, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("refunds")

    def move(
        self,
        refund: Refund,
        status: Status,
        *,
        record: Record | None = None,
        **changes: Any,
    ) -> Refund:
        """Save *refund* with *status* and *changes*, and an audit record; return it."""
        after = refund.with_status(status, self._clock(), **changes)
        self._store.save(refund, after, record=record)
        if status.is_final:
            log_final_status(self._log, after)
        return after

    def recheck_later(self, refund: Refund) -> Refund:
        """Save *refund* with the same status, due after ``REBROADCAST_AFTER``."""
        outcomes = Outcomes()
        self.recheck_all_later([refund], outcomes)
        return require(outcomes[refund.id])

    def recheck_all_later(self, refunds: Sequence[Refund], outcomes: Outcomes) -> None:
        """``recheck_later`` for each of *refunds*, in one transaction."""
        due_at = self._clock() + REBROADCAST_AFTER
        changes = [Change(refund, refund.with_due_at(due_at)) for refund in refunds]
        self.save_all(changes, outcomes)

    def save_all(self, changes: Sequence[Change], outcomes: Outcomes) -> None:
        """Save *changes* in one transaction; each has the refund or its error."""
        errors = self._store.save_all(changes)
        for change, error in zip(changes, errors, strict=True):
            outcomes[change.before.id] = error or change.after


def is_just_committed(refund: Refund, now: datetime) -> bool:
    """Return whether the checks of the last commit of *refund* are valid at *now*."""
    # A clock may have been set back.
    return timedelta(0) <= now - refund.moving.updated_at <= CHECKS_VALID_FOR


def delay_after(failures: int, longest: timedelta = MAX_RETRY_DELAY) -> timedelta:
    """Return how long to wait after *failures* failures: it doubles each time."""
    return min(timedelta(seconds=2 ** min(failures, 10)), longest)


def log_final_status(log: structlog.stdlib.BoundLogger, refund: Refund) -> None:
    """Log that *refund* is final; a failed one is an error, for an operator."""
    # A filler always fails, which is its purpose.
    is_filler = refund.purpose is PaymentPurpose.FILLER
    is_error = refund.status is Status.FAILED and not is_filler
    write = log.error if is_error else log.info
    write(
        "refund-ended",
        refund_id=refund.id,
        status=str(refund.status),
        code=refund.failure_code,
    )
