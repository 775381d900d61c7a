"""
What can go wrong on a wire, and the plan that says when.

A plan is scripted (``the next two of this method``) or seeded (``one in ten, from
seed 7``).  It is a value-in, value-out affair: ``proxy.py`` commits the faults.
"""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


ANY = "*"
"""The name that stands for every request."""


class Kind(StrEnum):
    """What may happen to a request."""

    PASS = "pass"
    DELAY = "delay"
    """It goes through, *seconds* later."""

    DROP_REPLY = "drop-reply"
    """The other side acts, and the connection closes in place of the answer."""

    RESET = "reset"
    """The connection is reset, and the other side hears nothing."""

    RESET_REPLY = "reset-reply"
    """The other side acts, and the connection is reset in place of the answer."""

    HALF_CLOSE = "half-close"
    """The other side acts; our direction ends without a word, theirs stays open."""

    TRUNCATE = "truncate"
    """The answer ends after *size* bytes."""

    STATUS = "status"
    """HTTP only: *status* (429, 502, 504) from a gateway that asked nobody."""

    LATE_STATUS = "late-status"
    """HTTP only: the other side acts, and a gateway's *status* replaces its answer."""

    STALE = "stale"
    """JSON-RPC only: the answer of *seconds* ago, or the oldest there is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens to one request."""

    kind: Kind
    seconds: float = 0.0
    size: int = 0
    status: int = 0

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Return the fault that ``to_json`` wrote."""
        return cls(**{**given, "kind": Kind(given["kind"])})

    def to_json(self) -> dict[str, Any]:
        """Return the fault as a JSON object."""
        return asdict(self)


PASS = Fault(Kind.PASS)
DROP_REPLY = Fault(Kind.DROP_REPLY)
RESET = Fault(Kind.RESET)
RESET_REPLY = Fault(Kind.RESET_REPLY)
HALF_CLOSE = Fault(Kind.HALF_CLOSE)
CUT = Fault(Kind.TRUNCATE, size=40)
GATEWAY_TIMEOUT = Fault(Kind.LATE_STATUS, status=504)

LOST_REPLIES = (DROP_REPLY, RESET_REPLY, HALF_CLOSE, CUT, GATEWAY_TIMEOUT)
"""The ways in which the other side acts, and nobody learns of it."""

# What a bad day brings to a node's clients: one request in eight.
BAD_DAY: tuple[tuple[Fault, float], ...] = (
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

Odds = tuple[tuple[Fault, float], ...]


class Plan:
    """
    Says what happens to the next request of each name; threads may share it.

    A blackout comes first, then the script, then the odds; else requests pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._committed = Counter[tuple[str, Kind]]()
        self._clock = clock
        self._lock = threading.Lock()
        self._scripts: dict[str, deque[Fault]] = {}
        self._odds: Odds = ()
        self._only = frozenset[str]()
        self._random = random.Random(0)
        self._dark_until = 0.0

    def script(self, name: str, *faults: Fault) -> None:
        """Let *faults* befall the next requests called *name*, one each."""
        with self._lock:
            self._scripts.setdefault(name, deque()).extend(faults)

    def seed(
        self, seed: int, odds: Odds, *, only: frozenset[str] = frozenset()
    ) -> None:
        """
        Draw a fault for every request, or for those called one of *only*.

        *odds* are probabilities whose sum is at most 1; what is left passes.  The
        same seed deals the same faults to the same sequence of requests.
        """
        with self._lock:
            self._odds, self._only = odds, only
            self._random = random.Random(seed)

    def blackout(self, seconds: float) -> None:
        """Reset every connection that stirs, from now on for *seconds*."""
        with self._lock:
            self._dark_until = self._clock() + seconds

    def heal(self) -> None:
        """Forget all that was planned."""
        with self._lock:
            self._scripts.clear()
            self._odds = ()
            self._dark_until = 0.0

    def committed(self) -> Counter[tuple[str, Kind]]:
        """Return how often each kind of fault befell each name."""
        with self._lock:
            return self._committed.copy()

    def is_dark(self) -> bool:
        """Say whether a blackout is on."""
        with self._lock:
            return self._clock() < self._dark_until

    def next(self, name: str) -> Fault:
        """Decide what happens to a request called *name*."""
        with self._lock:
            fault = self._next(name)
            self._committed[name, fault.kind] += 1
            return fault

    def _next(self, name: str) -> Fault:
        if self._clock() < self._dark_until:
            return RESET
        for script in (self._scripts.get(name), self._scripts.get(ANY)):
            if script:
                return script.popleft()
        if self._odds and (not self._only or name in self._only):
            return self._drawn()
        return PASS

    def _drawn(self) -> Fault:
        chance = self._random.random()
        for fault, odds in self._odds:
            chance -= odds
            if chance < 0:
                return fault
        return PASS
