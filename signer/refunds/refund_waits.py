"""
Requests that wait for their refunds: one of their threads watches for all of them.

The first thread that waits becomes the watcher of its process.  After each change of
the ledger it reads the awaited refunds in one query, and wakes the threads whose wait
is over.  When its own wait is over, another waiting thread becomes the watcher.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from signer.errors import StoreError
from signer.model.refund import OPEN, UNRESERVED, UNSENT, Refund, Status
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Topic, Watch


GATHER_SECONDS = 0.001
"""How long the watcher of several requests gathers changes before it reads again."""

ENTRY_SECONDS = 0.02
"""How long a request waits for the watcher to read its refund, before it does so."""

RETRY_SECONDS = 0.2
"""How long the watcher waits before it repeats a read that failed."""


@dataclass(frozen=True, slots=True)
class WaitCondition:
    """
    A wait is over when the refund has left ``pending_statuses``.

    With ``or_blocked`` it is also over when the refund is blocked.
    """

    pending_statuses: frozenset[Status]
    or_blocked: bool = False

    def is_met(self, refund: Refund) -> bool:
        """Return whether the wait for *refund* is over."""
        is_blocked = self.or_blocked and refund.moving.blocked_by is not None
        return is_blocked or refund.status not in self.pending_statuses


BROADCAST_TRIED = WaitCondition(UNSENT, or_blocked=True)
"""A worker has tried to send the refund."""

FINAL = WaitCondition(OPEN)

DEQUEUED = WaitCondition(UNRESERVED)


class _Wait:
    """One waiting thread."""

    def __init__(self, refund_id: str, condition: WaitCondition) -> None:
        self.refund_id = refund_id
        self.condition = condition
        self.found: Refund | None = None
        self.error: Exception | None = None
        self.is_read = False  # Since it began.
        self.is_woken = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether the thread has its result."""
        return self.found is not None or self.error is not None

    def finish(self, found: Refund) -> None:
        """Wake the thread if its wait is over with *found*."""
        if self.condition.is_met(found):
            self.found = found
            self.is_woken.set()

    def fail(self, error: Exception) -> None:
        """Wake the thread, which raises *error*."""
        self.error = error
        self.is_woken.set()


class RefundWaits:
    """The waiting requests of one process.  Threads share it."""

    def __init__(self, store: Ledger, timer: Callable[[], float]) -> None:
        self._store = store
        self._timer = timer
        self._lock = threading.Lock()
        self._waits: list[_Wait] = []
        self._watcher: _Wait | None = None
        # Of the watcher, which leaves them to the next one.
        self._cleanup: ExitStack | None = None
        self._watch: Watch | None = None
        self._is_read = False

    def wait(
        self, refund: Refund, seconds: float, condition: WaitCondition
    ) -> Refund | None:
        """
        Return *refund* as soon as it meets *condition*; None after *seconds*.

        A store that does not answer is asked again.
        """
        deadline = self._timer() + seconds
        wait = _Wait(refund.id, condition)
        try:
            if not self._enter(wait):
                wait.is_woken.wait(min(ENTRY_SECONDS, seconds))
                if not wait.is_read:
                    self._read([wait])  # It may have changed before the thread entered.
                if not wait.is_over:
                    wait.is_woken.wait(deadline - self._timer())
            if self._watcher is wait:
                self._read_changes(wait, deadline)
        finally:
            self._leave(wait)
        if wait.error is not None:
            raise wait.error
        return wait.found

    def _enter(self, wait: _Wait) -> bool:
        """Return whether the thread of *wait* is the watcher."""
        with self._lock:
            self._waits.append(wait)
            if self._watcher is None:
                self._watcher = wait
            return self._watcher is wait

    def _leave(self, wait: _Wait) -> None:
        """Make another thread the watcher if that of *wait* is."""
        cleanup = None
        with self._lock:
            self._waits.remove(wait)
            if self._watcher is wait:
                pending = (each for each in self._waits if not each.is_over)
                self._watcher = next(pending, None)
                if self._watcher is not None:
                    self._watcher.is_woken.set()
                else:
                    cleanup, self._cleanup, self._watch = self._cleanup, None, None
        if cleanup is not None:
            cleanup.close()

    def _read_changes(self, wait: _Wait, deadline: float) -> None:
        """Read the refunds of all threads after each change, until *wait* is over."""
        if self._watch is None:
            self._cleanup = ExitStack()
            self._watch = self._cleanup.enter_context(self._store.watch(Topic.MOVED))
        if not wait.is_read:
            self._is_read = self._read_all()
        while not wait.is_over and (left := deadline - self._timer()) > 0:
            self._watch.wait(left if self._is_read else min(left, RETRY_SECONDS))
            if len(self._waits) > 1:
                time.sleep(GATHER_SECONDS)
            self._is_read = self._read_all()

    def _read_all(self) -> bool:
        with self._lock:
            pending = [each for each in self._waits if not each.is_over]
        return not pending or self._read(pending)

    def _read(self, waits: Sequence[_Wait]) -> bool:
        """Wake the threads whose wait is over; False if the store does not answer."""
        ids = sorted({each.refund_id for each in waits})
        statuses = frozenset.intersection(
            *(each.condition.pending_statuses for each in waits)
        )
        try:
            found = self._store.find_advanced(ids, sorted(statuses))
        except StoreError:
            return False
        except Exception as e:  # noqa: BLE001
            # An unreadable row fails only the request for it.
            if len(waits) == 1:
                waits[0].fail(e)
                return True
            are_read = [self._read([each]) for each in waits]
            return all(are_read)
        by_id = {refund.id: refund for refund in found}
        for each in waits:
            each.is_read = True
            if each.refund_id in by_id:
                each.finish(by_id[each.refund_id])
        return True
