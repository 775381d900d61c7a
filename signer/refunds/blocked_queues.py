"""
Postpones a whole queue, if what blocks one of its refunds blocks all of them.

Thousands of refunds may wait for a paused wallet, a stopped network or a blocked
tenant.  If a worker tried each of them again and again, it would have no time for the
refunds that can be paid.
"""

from collections.abc import Container, Iterable
from datetime import timedelta

import structlog

from signer.errors import (
    ChainUnavailableError,
    HotWalletError,
    SigningStoppedError,
    TenantBlockedError,
    WalletPausedError,
)
from signer.model.refund import Refund, Status
from signer.model.refund_queue import Queue
from signer.ports import Clock, Store
from signer.refunds.transitions import delay_after


class BlockedQueues:
    """Postpones the queued refunds that are due and cannot be paid now."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("worker")

    def postpone(
        self, failed: Iterable[tuple[Refund, HotWalletError]], failing: Container[str]
    ) -> None:
        """
        Postpone the queues of the refunds that *failed*, each with its error.

        Nodes may answer for one refund and not for another, so an error of the nodes
        counts only for the networks in *failing*.
        """
        queues: dict[Queue, tuple[str, timedelta]] = {}
        for refund, error in failed:
            queue = _find_queue(refund, error, failing)
            if queue is not None:
                queues.setdefault(queue, (error.code, delay_after(refund.attempts)))
        for queue, (code, delay) in queues.items():
            now = self._clock()
            count = self._store.postpone_queue(
                queue, now=now, until=now + delay, code=code
            )
            if count:
                self._log.warning(
                    "queue-delayed",
                    **{queue.owner: queue.name},
                    code=code,
                    refunds=count,
                )


def _find_queue(
    refund: Refund, error: HotWalletError, failing: Container[str]
) -> Queue | None:
    """Return the queue that *error* blocks; None if it blocks only *refund*."""
    if refund.status is not Status.QUEUED or refund.bound_to is not None:
        return None
    if isinstance(error, TenantBlockedError):
        return Queue("tenant", refund.tenant)
    is_down = isinstance(error, ChainUnavailableError) and refund.network in failing
    is_blocked = isinstance(error, WalletPausedError | SigningStoppedError)
    return Queue("network", refund.network) if is_blocked or is_down else None
