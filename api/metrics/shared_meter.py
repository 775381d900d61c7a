"""Counts refusals, decisions and signatures in the database, for all processes."""

import atexit
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock

import structlog

from api.metrics.names import OTHER
from signer.errors import HotWalletError
from signer.model.decision import Verdict
from signer.policy.facts import Path
from signer.ports.clock import Clock
from signer.ports.meter import Meter
from signer.ports.shared_state import SharedState


FLUSH_SECONDS = 5.0
"""How often counts are stored: one small commit, if something was counted."""

REFUSED = "refused"
"""The name of the counts of refused requests, by the code of the error."""

DECIDED = "decided"
"""The name of the counts of decisions, by path, verdict and rule."""

SIGNED = "signed"
"""The name of the counts of signatures, by backend and outcome."""

ANSWERED = "http"
"""The name of the counts of requests, by method, route and status."""

TOOK = "http-time"
"""The name of the counts of requests by route and bucket; ``ms``: their sum."""

HTTP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""In seconds; a request that took longer is in the bucket ``+Inf``."""

_SUM = "ms"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "none"
_ROUTE = re.compile(r"none|/[A-Za-z0-9._/{}:-]{0,100}")
_STATUS = re.compile(r"[1-5][0-9]{2}")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_ANY = re.compile(".*", re.DOTALL)


def _one_of(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


# What follows in a name; other rows are another program's, and are left out.
_PARTS = {
    REFUSED: (_ANY,),
    DECIDED: (_one_of(Path), _one_of(Verdict), _ANY),
    SIGNED: (_NAME, _NAME),
    ANSWERED: (_one_of((*_METHODS, OTHER)), _ROUTE, _STATUS),
    TOOK: (_ROUTE, _ANY),
}


def read_counts(
    counts: Mapping[tuple[str, ...], int], kind: str
) -> Mapping[tuple[str, ...], int]:
    """Return those of *counts* that are of *kind*, by what follows it in the name."""
    parts = _PARTS[kind]
    return {
        name[1:]: count
        for name, count in counts.items()
        if name[0] == kind
        and len(name) == len(parts) + 1
        and all(map(re.Pattern.fullmatch, parts, name[1:]))
    }


def read_times(
    counts: Mapping[tuple[str, ...], int],
) -> Mapping[str, tuple[Sequence[tuple[str, float]], float]]:
    """Return the cumulative buckets and the sum of the seconds, by route."""
    found: dict[str, dict[str, int]] = {}
    for (route, part), count in read_counts(counts, TOOK).items():
        found.setdefault(route, {})[part] = count
    return {
        route: (list(_accumulate(parts)), parts.get(_SUM, 0) / 1000)
        for route, parts in found.items()
    }


def _bound(seconds: float) -> str:
    """Return a bucket's bound, as Prometheus writes it."""
    return "+Inf" if math.isinf(seconds) else str(float(seconds))


def _accumulate(parts: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    total = 0
    for bound in (*HTTP_BUCKETS, math.inf):
        total += parts.get(_bound(bound), 0)
        yield _bound(bound), total


class SharedMeter(Meter):
    """
    Counts in memory, and adds the counts to those in the database.

    So a request or a signature costs no commit for it, and a flood of them none.  A
    process that is killed loses the counts of the last seconds.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._log = structlog.get_logger("metrics")

    def signed(
        self,
        backend: str,
        outcome: str,
        seconds: float,
        *,
        attempts: int,
        throttled: int,
    ) -> None:
        self._count(SIGNED, backend, outcome)

    def refused(self, error: HotWalletError) -> None:
        self._count(REFUSED, error.code)

    def decided(self, path: str, verdict: Verdict, rule: str) -> None:
        self._count(DECIDED, path, verdict, rule)

    def answered(
        self, method: str, route: str | None, status: int, seconds: float
    ) -> None:
        """Count a request by its *route*, a template, or None if there is none."""
        named = route or _NO_ROUTE
        self._count(
            ANSWERED, method if method in _METHODS else OTHER, named, str(status)
        )
        bound = next((each for each in HTTP_BUCKETS if seconds <= each), math.inf)
        self._count(TOOK, named, _bound(bound))
        self._count(TOOK, named, _SUM, by=round(seconds * 1000))

    def run(
        self, counters: SharedState, clock: Clock, wait: Callable[[float], bool]
    ) -> None:
        """Store the counts until *wait* returns true, and when the process ends."""
        atexit.register(partial(self.flush_at_exit, counters, clock))
        while not wait(FLUSH_SECONDS):
            try:
                self.flush(counters, clock)
            except HotWalletError as e:
                self._log.warning("counts-not-stored", code=e.code)

    def flush(self, counters: SharedState, clock: Clock) -> None:
        """
        Store the counts; after a StoreError they are kept for the next time.

        If it is unknown whether they were stored, they may be counted twice.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            counters.add_counts(counts, clock())
        except HotWalletError:
            with self._lock:
                self._counts.update(counts)
            raise

    def flush_at_exit(self, counters: SharedState, clock: Clock) -> None:
        """Store the counts, if the database answers."""
        with suppress(HotWalletError):
            self.flush(counters, clock)

    def _count(self, *name: str, by: int = 1) -> None:
        words = tuple(map(str, name))
        with self._lock:
            self._counts[words] += by
