"""Which requests are repeated, and when."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx


_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501

# Of these it is unknown whether the request arrived.  Other errors of httpx are errors
# of the request itself, which would fail again.
LOST = (
    httpx.NetworkError,
    httpx.TimeoutException,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)


@dataclass(frozen=True, slots=True)
class Retries:
    """
    How long a call repeats its request, and with which pauses, in seconds.

    A pause is what ``Retry-After`` asks for, plus a random part of a bound that doubles
    from ``first_pause`` to ``longest_pause``: clients that failed together spread.
    ``clock`` and ``draw`` (a number from 0 to 1) are for tests.
    """

    deadline: float = 60.0
    first_pause: float = 0.5
    longest_pause: float = 20.0
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    def pause(self, count: int) -> float:
        """Return the random part of the pause after *count* + 1 failures."""
        bound: float = self.first_pause * 2 ** min(count, 30)
        return self.draw() * min(bound, self.longest_pause)


def should_repeat(status: int, headers: httpx.Headers) -> bool:
    """Return whether the same request may have another answer later."""
    if status == _NOT_IMPLEMENTED:
        return False
    is_error = status >= httpx.codes.BAD_REQUEST
    return (
        status in {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS}
        or status >= _SERVER_ERROR
        or (is_error and "retry-after" in headers)
    )


def retry_after(headers: httpx.Headers) -> float:
    """Return the seconds of ``Retry-After``; 0 without a number."""
    text = headers.get("retry-after", "")
    return float(text[:9]) if text.isascii() and text.isdigit() else 0.0
