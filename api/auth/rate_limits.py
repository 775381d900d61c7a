"""
Requests per minute, counted by all processes together.

Windows are fixed: each begins with the minute.  A caller over the limit stays over it
until the window ends.  The process remembers that and does not ask the database again,
so a flood of requests costs it no queries.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import Self

from signer.errors import RateLimitedError, StoreError, StoreUnavailableError
from signer.ports.clock import Clock, utc_now
from signer.ports.shared_state import SharedState


WINDOW = 60  # Seconds.

READS_PER_CHANGE = 10
"""An administrator may read so many times more often than change something."""

SIGNATURES_PER_MINUTE = 600
"""Of messages, for each tenant without a limit of requests."""

NO_TENANTS: Mapping[str, int] = MappingProxyType({})

_LOCAL_COUNT_SECONDS = 5.0  # Of counting in memory alone after the database failed.


class RateLimitStatus(Enum):
    """Whether a request is within the limit, the first over it, or a later one."""

    WITHIN = auto()
    FIRST_OVER = auto()
    OVER = auto()


class RateLimit:
    """
    At most *limit* requests per minute for each name; threads share one instance.

    With a *batch* above 1, a process takes that many permits from the shared count at
    once and uses them up in memory.  Permits left over at the end of a minute are lost,
    so fewer than *limit* requests may be allowed.
    """

    def __init__(
        self,
        kind: str,
        limit: int,
        callers: SharedState,
        *,
        batch: int = 1,
        clock: Clock = utc_now,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = kind
        self._limit = limit
        self._callers = callers
        self._batch = batch
        self._clock = clock
        self._timer = timer
        self._lock = Lock()
        self._local_until = float("-inf")
        self._begin_window(0)

    def is_over(self, name: str) -> bool:
        """Whether this process knows that *name* is over the limit; sends no query."""
        with self._lock:
            is_current = self._current_window() == self._window
            return is_current and self._bucket(name) in self._over

    def take(self, name: str, *, require_store: bool = False) -> RateLimitStatus:
        """
        Count one request of *name*.

        While the database does not answer, each process counts for itself; or, with
        *require_store*, StoreUnavailableError is raised.
        """
        bucket, window = self._bucket(name), self._current_window()
        with self._lock:
            if window != self._window:
                self._begin_window(window)
            if bucket in self._over:
                return RateLimitStatus.OVER
            if self._permits.get(bucket, 0) > 0:
                self._permits[bucket] -= 1
                return RateLimitStatus.WITHIN
        count = self._count_batch(bucket, window, require_store=require_store)
        before = count - self._batch
        granted = min(self._batch, self._limit - before)
        with self._lock:
            if window == self._window and granted > 0:
                self._permits[bucket] += granted - 1
            elif window == self._window:
                self._over.add(bucket)
        if granted > 0:
            return RateLimitStatus.WITHIN
        is_first = before == self._limit
        return RateLimitStatus.FIRST_OVER if is_first else RateLimitStatus.OVER

    def exceeded(self) -> RateLimitedError:
        left = WINDOW - int(self._clock().timestamp()) % WINDOW
        return RateLimitedError(
            "There are too many of these requests; wait.", retry_after=left
        )

    def _count_batch(self, bucket: str, window: int, *, require_store: bool) -> int:
        if require_store or self._timer() >= self._local_until:
            try:
                return self._callers.count(bucket, window, self._batch)
            except StoreError as e:
                if require_store:
                    raise StoreUnavailableError("the request cannot be counted") from e
                self._local_until = self._timer() + _LOCAL_COUNT_SECONDS
        with self._lock:
            self._local_counts[bucket] += self._batch
            return self._local_counts[bucket]

    def _current_window(self) -> int:
        return int(self._clock().timestamp()) // WINDOW

    def _begin_window(self, window: int) -> None:
        """Forget everything of the last window, which bounds the memory."""
        self._window = window
        self._over: set[str] = set()
        self._permits: dict[str, int] = defaultdict(int)
        self._local_counts: dict[str, int] = defaultdict(int)

    def _bucket(self, name: str) -> str:
        # Hashed: a fixed length, and characters that every database can hold.
        return f"{self._kind}:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """
    The limits of the API.

    ``refused`` counts answers 401 and 421 per peer, and 403 per subject.  ``audited``
    counts the audit records of refusals per subject.  ``administration`` counts the
    changes of each administrator, and ``reading`` what the administrator reads, for
    which many tabs of the console may be open.  ``client`` counts
    all other requests of each tenant, or of each subject that needs none, if they are
    limited; ``tenants`` has the tenants with a limit of their own.  ``signatures``
    counts the messages that a tenant without either has signed.
    """

    refused: RateLimit
    audited: RateLimit
    administration: RateLimit
    reading: RateLimit
    signatures: RateLimit
    client: RateLimit | None = None
    tenants: Mapping[str, RateLimit] = field(default_factory=dict)

    def of_tenant(self, name: str) -> RateLimit | None:
        """Return the limit of all requests of the tenant *name*, if there is one."""
        return self.tenants.get(name, self.client)

    @classmethod
    def shared(
        cls,
        callers: SharedState,
        *,
        refused: int = 60,
        administration: int = 30,
        signatures: int = SIGNATURES_PER_MINUTE,
        client: int = 0,
        tenants: Mapping[str, int] = NO_TENANTS,
        clock: Clock = utc_now,
    ) -> Self:
        """
        Return limits per minute that *callers* counts; *client* may be 0: none.

        *tenants* are the limits of tenants by name.
        """
        limit = partial(RateLimit, callers=callers, clock=clock)

        def of_tenants(kind: str, most: int) -> RateLimit:
            return limit(kind, most, batch=max(1, most // 10))

        return cls(
            limit("refused", refused),
            limit("audited", 2 * refused),
            limit("administration", administration),
            limit("reading", READS_PER_CHANGE * administration),
            of_tenants("signatures", signatures),
            of_tenants("client", client) if client else None,
            {name: of_tenants("client", most) for name, most in tenants.items()},
        )
