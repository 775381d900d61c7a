"""Saves changes of a refund: another status, or the same one with a later due date."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import structlog

from signer.model.audit_record import Record
from signer.model.refund import Refund, Status
from signer.ports import Clock, Store


REBROADCAST_AFTER = timedelta(seconds=30)
"""How long a transaction waits before it is broadcast again."""


class Transitions:
    """
    Saves refunds; each change is one compare-and-set on the version.

    Both methods raise ``StaleStateError`` if another process changed the refund.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("refunds")

    def move(
        self,
        refund: Refund,
        status: Status,
        *,
        record: Record | None = None,
        answer: Callable[[Refund], str] | None = None,
        **changes: Any,
    ) -> Refund:
        """
        Save *refund* with *status* and *changes*, and an audit record; return it.

        *answer* makes the response to its request, which is stored unless there is one.
        """
        after = refund.with_status(status, self._clock(), **changes)
        body = None if answer is None else answer(after)
        self._store.save(refund, after, outcome=record, answer=body)
        if status.is_final:
            log_final_status(self._log, after)
        return after

    def recheck_later(self, refund: Refund) -> Refund:
        """Save *refund* with the same status, due after ``REBROADCAST_AFTER``."""
        after = refund.with_due_at(self._clock() + REBROADCAST_AFTER)
        self._store.save(refund, after)
        return after


def log_final_status(log: structlog.stdlib.BoundLogger, refund: Refund) -> None:
    """Log that *refund* is final; a failed one is an error, for an operator."""
    write = log.error if refund.status is Status.FAILED else log.info
    write(
        "refund-ended",
        refund_id=refund.id,
        status=str(refund.status),
        code=refund.failure_code,
    )
