"""
The faults that a proxy can inject, and the plan that decides when.

A plan is scripted (the next two requests of this name) or seeded (one in ten, from
seed 7).
"""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


ANY = "*"
"""The name that stands for every request."""


class Kind(StrEnum):
    """A kind of fault.  The server acts unless stated otherwise."""

    PASS = "pass"
    DELAY = "delay"
    """The request arrives *seconds* later."""

    DROP_REPLY = "drop-reply"
    """The connection closes instead of the response."""

    RESET = "reset"
    """The connection is reset, and the request does not arrive."""

    RESET_REPLY = "reset-reply"
    """The connection is reset instead of the response."""

    HALF_CLOSE = "half-close"
    """The proxy sends EOF instead of the response, and goes on reading."""

    TRUNCATE = "truncate"
    """The response ends after *size* bytes."""

    STATUS = "status"
    """HTTP only: the response is *status*, and the request does not arrive."""

    LATE_STATUS = "late-status"
    """HTTP only: the status of the response is replaced by *status*."""

    STALE = "stale"
    """JSON-RPC only: the response of *seconds* ago, or the oldest known one."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    seconds: float = 0.0
    size: int = 0
    status: int = 0


PASS = Fault(Kind.PASS)
DROP_REPLY = Fault(Kind.DROP_REPLY)
RESET = Fault(Kind.RESET)
RESET_REPLY = Fault(Kind.RESET_REPLY)
HALF_CLOSE = Fault(Kind.HALF_CLOSE)
CUT = Fault(Kind.TRUNCATE, size=40)
GATEWAY_TIMEOUT = Fault(Kind.LATE_STATUS, status=504)

LOST_REPLIES = (DROP_REPLY, RESET_REPLY, HALF_CLOSE, CUT, GATEWAY_TIMEOUT)
"""The faults after which the server has acted and the client does not know."""

Odds = tuple[tuple[Fault, float], ...]

ODDS: Odds = (
    (DROP_REPLY, 0.03),
    (RESET, 0.02),
    (RESET_REPLY, 0.01),
    (HALF_CLOSE, 0.01),
    (CUT, 0.01),
    (GATEWAY_TIMEOUT, 0.01),
    (Fault(Kind.STATUS, status=429), 0.01),
    (Fault(Kind.STATUS, status=502), 0.01),
    (Fault(Kind.DELAY, seconds=0.3), 0.01),
    (Fault(Kind.STALE, seconds=3.0), 0.02),
)
"""The faults of a bad network: one request in eight has one."""


class Plan:
    """
    Decides the fault of each request; threads may share it.

    A blackout has precedence over the script, and the script over the odds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._injected = Counter[tuple[str, Kind]]()
        self._clock = clock
        self._lock = threading.Lock()
        self._scripts: dict[str, deque[Fault]] = {}
        self._odds: Odds = ()
        self._only = frozenset[str]()
        self._random = random.Random(0)
        self._dark_until = 0.0

    def script(self, name: str, *faults: Fault) -> None:
        """Inject *faults* into the next requests called *name*, one each."""
        with self._lock:
            self._scripts.setdefault(name, deque()).extend(faults)

    def seed(
        self, seed: int, odds: Odds, *, only: frozenset[str] = frozenset()
    ) -> None:
        """
        Draw a fault for every request, or for those whose name is in *only*.

        *odds* are probabilities with a sum of at most 1; the other requests pass.  The
        same seed draws the same faults for the same sequence of requests.
        """
        with self._lock:
            self._odds, self._only = odds, only
            self._random = random.Random(seed)

    def blackout(self, seconds: float) -> None:
        """Reset every connection that is used in the next *seconds*."""
        with self._lock:
            self._dark_until = self._clock() + seconds

    def heal(self) -> None:
        """End the blackout, the script and the odds."""
        with self._lock:
            self._scripts.clear()
            self._odds = ()
            self._dark_until = 0.0

    def injected(self) -> Counter[tuple[str, Kind]]:
        """Return how often each request name had each kind of fault."""
        with self._lock:
            return self._injected.copy()

    def is_dark(self) -> bool:
        with self._lock:
            return self._clock() < self._dark_until

    def next(self, name: str) -> Fault:
        """Return the fault of a request called *name*."""
        with self._lock:
            fault = self._next(name)
            self._injected[name, fault.kind] += 1
            return fault

    def _next(self, name: str) -> Fault:
        if self._clock() < self._dark_until:
            return RESET
        for script in (self._scripts.get(name), self._scripts.get(ANY)):
            if script:
                return script.popleft()
        if self._odds and (not self._only or name in self._only):
            return self._draw()
        return PASS

    def _draw(self) -> Fault:
        chance = self._random.random()
        for fault, odds in self._odds:
            chance -= odds
            if chance < 0:
                return fault
        return PASS
