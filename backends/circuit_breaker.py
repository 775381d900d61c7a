"""
A circuit breaker: calls to a server that does not answer fail at once.

Without it, every thread waits for its own timeout, again for each call of a request.
Requests that need no database then wait for a thread.
"""

import threading
import time
from collections.abc import Callable


RETRY_SECONDS = 1.0
"""How long after a timeout every call fails at once; then one call may try."""


class CircuitBreaker:
    """
    Opens when a call times out, and closes when the server answers.

    While it is open, one thread at a time may try to reach the server, for at most
    *call_seconds*.  Any answer closes it, also an error and a refused connection: those
    come fast.  Threads share an instance.
    """

    def __init__(
        self, call_seconds: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._call_seconds = call_seconds
        self._timer = timer
        self._lock = threading.Lock()
        self._is_open = False
        self._next_try = 0.0
        self._trying: int | None = None  # The thread that tries.

    def admits(self) -> bool:
        """Return whether this thread may call the server now."""
        if not self._is_open:
            return True
        thread = threading.get_ident()
        with self._lock:
            now = self._timer()
            if not self._is_open or self._trying == thread:
                return True
            if now < self._next_try:
                return False
            self._trying = thread
            self._next_try = now + self._call_seconds
            return True

    def record_timeout(self) -> None:
        """Open: the server did not answer a call in time."""
        with self._lock:
            self._is_open = True
            self._trying = None
            self._next_try = self._timer() + RETRY_SECONDS

    def record_answer(self) -> None:
        """Close: the server answered."""
        if self._is_open:
            with self._lock:
                self._is_open = False
                self._trying = None
