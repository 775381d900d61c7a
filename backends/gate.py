"""A gate: many threads at once, or one alone."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from signer.errors import BackendUnavailableError


PATIENCE = 5.0
"""How long to wait at the gate, in seconds: well under a worker's time-out."""

UNLIMITED = sys.maxsize
"""As many threads as there are."""


class Gate:
    """
    A readers-writer lock with a deadline, for a device that all threads share.

    ``with gate:`` admits any number of threads that use the device, or *limit*
    of them.  ``with gate.alone():`` waits until they have left and keeps others
    out, so that the device can be taken down and set up again.  Threads that
    come while somebody waits to be alone queue up behind: nobody starves.

    Neither may be entered by a thread that is inside already.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.limit = UNLIMITED
        self._patience = patience
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._closed = False

    def __enter__(self) -> Self:
        """
        Come in.

        Raises:
            BackendUnavailableError: The gate stayed closed.
        """
        with self._lock:
            if self._closed or self._inside >= self.limit:
                self._wait(lambda: not self._closed and self._inside < self.limit)
            self._inside += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave, and let the next one know."""
        with self._lock:
            self._inside -= 1
            if self._closed:
                self._changed.notify_all()
            elif self._inside < self.limit:
                self._changed.notify()

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
                self._open()

    def close(self) -> None:
        """
        Wait until everybody has left, and keep the gate closed from then on.

        Raises:
            BackendUnavailableError: Somebody did not leave: a call hangs inside.
        """
        with self._lock:
            self._wait(lambda: not self._closed)
            self._closed = True
            try:
                self._wait(lambda: self._inside == 0)
            except BackendUnavailableError:
                self._open()
                raise

    def _open(self) -> None:
        self._closed = False
        self._changed.notify_all()

    def _wait(self, until: Callable[[], bool]) -> None:
        if not self._changed.wait_for(until, self._patience):
            raise BackendUnavailableError("the device is busy with a call that hangs")
