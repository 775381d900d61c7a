"""
How often somebody may call in a minute, counted by all processes together.

Windows are fixed and begin with the minute.  What is over its limit stays so until
the window ends; the process remembers that, and asks the database no more, so that
a flood costs nothing but memory for as long as a minute.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from threading import Lock
from typing import Self

from signer.errors import RateLimitedError, StoreError, StoreUnavailableError
from signer.ports import Callers, Clock, utc_now


WINDOW = 60  # Seconds.

# How long the database, once it failed, is not asked by those who can do without.
_BLIND_SECONDS = 5.0


class RateLimitStatus(Enum):
    """Where one more stands: within the limit, the first beyond it, or further."""

    WITHIN = auto()
    FIRST_OVER = auto()
    OVER = auto()


class RateLimit:
    """
    So many a minute, for each of those who do it.  Threads share it.

    With a *batch* above 1, permits are taken from the shared count so many at a time
    and used up in memory.  What a process has left when the minute ends is lost, so
    that fewer than *most* may be let through.
    """

    def __init__(
        self,
        name: str,
        most: int,
        callers: Callers,
        *,
        batch: int = 1,
        clock: Clock = utc_now,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._most = most
        self._callers = callers
        self._batch = batch
        self._clock = clock
        self._timer = timer
        self._lock = Lock()
        self._blind_until = float("-inf")
        self._turn(0)

    def is_over(self, who: str) -> bool:
        """Say whether this process knows that *who* has no more; ask nobody."""
        with self._lock:
            return self._window() == self._period and self._bucket(who) in self._over

    def take(self, who: str, *, firm: bool = False) -> RateLimitStatus:
        """
        Count one more of *who*.

        While the database does not answer, each process goes by its own count.

        Raises:
            StoreUnavailableError: It does not, and the limit must be *firm*.
        """
        bucket, period = self._bucket(who), self._window()
        with self._lock:
            if period != self._period:
                self._turn(period)
            if bucket in self._over:
                return RateLimitStatus.OVER
            if self._permits.get(bucket, 0) > 0:
                self._permits[bucket] -= 1
                return RateLimitStatus.WITHIN
        before = self._counted(bucket, period, firm=firm) - self._batch
        granted = min(self._batch, self._most - before)
        with self._lock:
            if period == self._period and granted > 0:
                self._permits[bucket] += granted - 1
            elif period == self._period:
                self._over.add(bucket)
        if granted > 0:
            return RateLimitStatus.WITHIN
        return (
            RateLimitStatus.FIRST_OVER if before == self._most else RateLimitStatus.OVER
        )

    def exceeded(self) -> RateLimitedError:
        """Return what whoever is over the limit is told."""
        left = WINDOW - int(self._clock().timestamp()) % WINDOW
        return RateLimitedError(
            "There are too many of these requests; wait.", retry_after=left
        )

    def _counted(self, bucket: str, period: int, *, firm: bool) -> int:
        if firm or self._timer() >= self._blind_until:
            try:
                return self._callers.count(bucket, period, self._batch)
            except StoreError as e:
                if firm:
                    raise StoreUnavailableError("nothing can be counted") from e
                self._blind_until = self._timer() + _BLIND_SECONDS
        with self._lock:
            self._own[bucket] += self._batch
            return self._own[bucket]

    def _window(self) -> int:
        return int(self._clock().timestamp()) // WINDOW

    def _turn(self, period: int) -> None:
        """Begin a window: all that is remembered is of one, and so has an end."""
        self._period = period
        self._over: set[str] = set()
        self._permits: dict[str, int] = defaultdict(int)
        self._own: dict[str, int] = defaultdict(int)

    def _bucket(self, who: str) -> str:
        # Of a fixed length, and of characters that every database can hold.
        return f"{self._name}:{hashlib.sha256(who.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """
    The limits of the API.

    ``refused`` counts answers 401 and 403 by where they go, ``administration`` the
    administrative calls of each subject (looks and changes apart), and ``client`` all
    other calls of each, if
    they are limited.
    """

    refused: RateLimit
    administration: RateLimit
    client: RateLimit | None = None

    @classmethod
    def shared(
        cls,
        callers: Callers,
        *,
        refused: int = 60,
        administration: int = 30,
        client: int = 0,
        clock: Clock = utc_now,
    ) -> Self:
        """Return limits a minute that *callers* counts; no *client* means none."""
        return cls(
            RateLimit("refused", refused, callers, clock=clock),
            RateLimit("administration", administration, callers, clock=clock),
            RateLimit(
                "client", client, callers, batch=max(1, client // 10), clock=clock
            )
            if client
            else None,
        )
