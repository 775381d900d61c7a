"""A readers-writer lock with a queue, a limit and a timeout."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from signer.errors import BackendUnavailableError


TIMEOUT = 5.0
"""Seconds to wait for the lock: well below gunicorn's worker timeout."""

UNLIMITED = sys.maxsize
"""The limit that admits every thread."""


class RWLock:
    """
    A readers-writer lock, first come, first served, with a timeout.

    ``with lock:`` takes it shared, for calls to the device: at most *limit* threads at
    once.  ``with lock.exclusive():`` waits until they have released it and blocks new
    ones, so that the device can be finalized and initialized.  Threads that come later
    queue after it, so that neither kind starves the other.

    It is not reentrant.  Taking it raises ``BackendUnavailableError`` after *timeout*
    seconds: a thread did not release it, because its call hangs.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.limit = UNLIMITED
        self._timeout = timeout
        self._lock = threading.Lock()
        self._queue: deque[_Waiter] = deque()
        self._shared = 0
        self._is_exclusive = False

    def __enter__(self) -> Self:
        with self._lock:
            if not self._queue and not self._is_exclusive and self._shared < self.limit:
                self._shared += 1
                return self
            waiter = self._enqueue(_Waiter(is_exclusive=False))
        self._wait(waiter)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._shared -= 1
            if self._queue:
                self._admit()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone."""
        self.close()
        try:
            yield
        finally:
            with self._lock:
                self._is_exclusive = False
                self._admit()

    def close(self) -> None:
        """Take the lock exclusively and never release it."""
        with self._lock:
            waiter = self._enqueue(_Waiter(is_exclusive=True))
        self._wait(waiter)

    def _enqueue(self, waiter: "_Waiter") -> "_Waiter":
        self._queue.append(waiter)
        self._admit()
        return waiter

    def _admit(self) -> None:
        """Admit the next waiters; the caller holds ``_lock``."""
        while self._queue and not self._is_exclusive:
            waiter = self._queue[0]
            if self._shared >= (1 if waiter.is_exclusive else self.limit):
                return
            if waiter.is_exclusive:
                self._is_exclusive = True
            else:
                self._shared += 1
            self._queue.popleft()
            waiter.admitted.set()

    def _wait(self, waiter: "_Waiter") -> None:
        if waiter.admitted.wait(self._timeout):
            return
        with self._lock:
            if waiter.admitted.is_set():
                return
            self._queue.remove(waiter)
            self._admit()  # The next waiters may have waited only for this one.
        raise BackendUnavailableError("the device is busy with a call that hangs")


class _Waiter:
    __slots__ = ("admitted", "is_exclusive")

    def __init__(self, *, is_exclusive: bool) -> None:
        self.is_exclusive = is_exclusive
        self.admitted = threading.Event()
