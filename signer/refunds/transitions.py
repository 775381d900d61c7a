"""A change of a refund, saved: to another state, or to another time."""

from datetime import timedelta
from typing import Any

import structlog

from signer.model.refund import Refund, Status
from signer.ports import Clock, Store


RESEND_AFTER = timedelta(seconds=30)
"""How long a transaction waits before the nodes are told of it again."""


class Transitions:
    """Saves what becomes of refunds; each change is one compare-and-set."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("refunds")

    def move(self, refund: Refund, status: Status, **changes: Any) -> Refund:
        """
        Return *refund* at *status*, saved.

        Raises:
            StaleStateError: Somebody else moved it meanwhile.
        """
        after = refund.moved(status, self._clock(), **changes)
        self._store.save(refund, after)
        if status.is_final:
            tell_end(self._log, after)
        return after

    def wait(self, refund: Refund) -> Refund:
        """
        Return *refund* where it stands, to be looked at again when the chain had time.

        Raises:
            StaleStateError: Somebody else moved it meanwhile.
        """
        after = refund.postponed(self._clock() + RESEND_AFTER)
        self._store.save(refund, after)
        return after


def tell_end(log: structlog.stdlib.BoundLogger, refund: Refund) -> None:
    """Log that *refund* is at its end; a failed one is for somebody to look at."""
    tell = log.error if refund.status is Status.FAILED else log.info
    tell(
        "refund-ended",
        refund_id=refund.id,
        status=str(refund.status),
        code=refund.failure_code,
    )
