"""Brings every accepted refund to its end, however often somebody dies."""

from collections.abc import Callable
from datetime import timedelta

import structlog

from signer.errors import HotWalletError, StaleStateError
from signer.ports import Clock, Store
from signer.refunds.lifecycle import Actor, Lifecycle
from signer.refunds.refund import OPEN, Refund, Status


_BATCH = 500

# A refund takes five steps.  More in one pass means that nodes disagree about a
# block, and must not keep the other refunds waiting.
_MOST_STEPS = 8

# A request that is still being served sends its own refund.
_GRACE = timedelta(seconds=15)

_UNSENT = frozenset({Status.QUEUED, Status.RESERVED, Status.SIGNED})


class Worker:
    """
    Takes each open refund as far as it goes, pass after pass.

    Any number of workers may run: two that take the same step waste one, since
    the store lets only the first count.
    """

    def __init__(
        self, store: Store, lifecycle: Lifecycle, clock: Clock, batch: int = _BATCH
    ) -> None:
        self._store = store
        self._batch = batch
        self._lifecycle = lifecycle
        self._clock = clock
        self._log = structlog.get_logger("worker")

    def run(self, wait: Callable[[], bool]) -> None:
        """Work until *wait*, called between passes, answers that it is time to stop."""
        stop = False
        while not stop:
            try:
                self.work()
            except HotWalletError as e:
                self._log.warning("pass-failed", code=e.code)
            stop = wait()

    def work(self) -> int:
        """Do one pass over the open refunds; return how many steps were taken."""
        steps, last = 0, None
        while batch := self._store.open_refunds(self._batch, after=last):
            steps += sum(
                self._advance(refund)
                for refund in batch
                if not self._is_being_served(refund)
            )
            last = batch[-1].id
        return steps

    def _advance(self, refund: Refund) -> int:
        steps = 0
        try:
            while refund.status in OPEN and steps < _MOST_STEPS:
                after = self._lifecycle.step(refund, Actor("worker"))
                if after is refund:
                    break
                refund, steps = after, steps + 1
        except StaleStateError:
            pass  # Somebody else is at it.
        except HotWalletError as e:
            # One refund's trouble is not the next one's.
            self._log.warning(
                "refund-delayed",
                refund_id=refund.id,
                status=str(refund.status),
                code=e.code,
            )
        except Exception as e:  # noqa: BLE001 - nor is a bug that one of them meets.
            self._log.error("refund-stuck", refund_id=refund.id, error=type(e).__name__)
        return steps

    def _is_being_served(self, refund: Refund) -> bool:
        return refund.status in _UNSENT and self._clock() < refund.updated_at + _GRACE
