"""A gate: many threads at once, or one alone."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from signer.errors import BackendUnavailableError


PATIENCE = 5.0
"""How long to wait at the gate, in seconds: well under a worker's time-out."""

UNLIMITED = sys.maxsize
"""As many threads as there are."""


class RWLock:
    """
    A readers-writer lock, first come, first served, with a deadline.

    ``with gate:`` admits any number of threads that use the device, or *limit*
    of them.  ``with gate.alone():`` waits until they have left and keeps others
    out, so that the device can be taken down and set up again.  Who comes later
    queues up behind, so that neither kind can starve the other.

    Neither may be entered by a thread that is inside already.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.limit = UNLIMITED
        self._patience = patience
        self._lock = threading.Lock()
        self._queue: deque[_Visitor] = deque()
        self._inside = 0
        self._closed = False

    def __enter__(self) -> Self:
        """
        Come in.

        Raises:
            BackendUnavailableError: The gate stayed closed.
        """
        with self._lock:
            if not self._queue and not self._closed and self._inside < self.limit:
                self._inside += 1
                return self
            visitor = self._queued(_Visitor(wants_to_be_alone=False))
        self._wait(visitor)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave."""
        with self._lock:
            self._inside -= 1
            if self._queue:
                self._admit()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """
        Be the only one inside.

        Raises:
            BackendUnavailableError: Somebody did not leave: a call hangs inside.
        """
        self.close()
        try:
            yield
        finally:
            with self._lock:
                self._closed = False
                self._admit()

    def close(self) -> None:
        """
        Wait until everybody has left, and keep the gate closed from then on.

        Raises:
            BackendUnavailableError: Somebody did not leave: a call hangs inside.
        """
        with self._lock:
            visitor = self._queued(_Visitor(wants_to_be_alone=True))
        self._wait(visitor)

    def _queued(self, visitor: "_Visitor") -> "_Visitor":
        self._queue.append(visitor)
        self._admit()
        return visitor

    def _admit(self) -> None:
        """Let in whose turn it is; call it with the lock."""
        while self._queue and not self._closed:
            visitor = self._queue[0]
            if self._inside >= (1 if visitor.wants_to_be_alone else self.limit):
                return
            if visitor.wants_to_be_alone:
                self._closed = True
            else:
                self._inside += 1
            self._queue.popleft()
            visitor.admitted.set()

    def _wait(self, visitor: "_Visitor") -> None:
        if visitor.admitted.wait(self._patience):
            return
        with self._lock:
            if visitor.admitted.is_set():
                return
            self._queue.remove(visitor)
            self._admit()  # Others may have waited for this one only.
        raise BackendUnavailableError("the device is busy with a call that hangs")


class _Visitor:
    """A thread in the queue."""

    __slots__ = ("admitted", "wants_to_be_alone")

    def __init__(self, *, wants_to_be_alone: bool) -> None:
        self.wants_to_be_alone = wants_to_be_alone
        self.admitted = threading.Event()
