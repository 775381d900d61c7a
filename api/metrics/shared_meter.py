"""Counts refusals, decisions and signatures in the database, for all processes."""

import atexit
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock

import structlog

from api.metrics import metric_names
from api.metrics.metric_names import OF_PROCESSES, Spec
from api.metrics.readings import OTHER, Names, Readings, bucket_names
from signer.errors import HotWalletError
from signer.loops import Wait, repeat
from signer.model.decision import Verdict
from signer.policy.facts import Path
from signer.ports.clock import Clock
from signer.ports.ledger import SharedState
from signer.ports.meter import Meter


FLUSH_SECONDS = 5.0
"""How often counts are stored: one small commit, if something was counted."""

_SUM = "ms"
"""In place of a histogram's bucket: the sum, in milliseconds."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "none"


def _one_of(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

_PATTERNS = {
    "path": _one_of(Path),
    "verdict": _one_of(Verdict),
    "backend": _NAME,
    "outcome": _NAME,
    "method": _one_of((*_METHODS, OTHER)),
    "route": re.compile(r"none|/[A-Za-z0-9._/{}:-]{0,100}"),
    "status": re.compile(r"[1-5][0-9]{2}"),
}
"""What labels can be; other rows are another program's, and are left out."""

_ANY = re.compile(".*", re.DOTALL)  # Labels that ``Names`` bounds.


def read_shared(
    counts: Mapping[tuple[str, ...], int], names: Names | None = None
) -> Readings:
    """Return the metrics of all processes in *counts*, with labels of *names*."""
    found = Readings(names)
    for spec in OF_PROCESSES:
        for (name, *words), count in counts.items():
            size = len(spec.labels)
            if name != spec.name or len(words) != size + bool(spec.buckets):
                continue
            labels, rest = tuple(words[:size]), words[size:]
            pairs = zip(spec.labels, labels, strict=True)
            if all(_PATTERNS.get(key, _ANY).fullmatch(each) for key, each in pairs):
                numbers = _histogram(spec, rest[0], count) if rest else [count]
                found.put(spec, labels, numbers)
    return found


def _histogram(spec: Spec, part: str, count: int) -> Sequence[float]:
    """Return the value of a histogram that has *count* of one *part* only."""
    parts = [_SUM, *bucket_names(spec)]
    found = [float(count * (each == part)) for each in parts]
    return [found[0] / 1000, *found[1:]]


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
        self._count(metric_names.SIGNATURES, backend, outcome)

    def refused(self, error: HotWalletError) -> None:
        self._count(metric_names.REFUSALS, error.code)

    def decided(self, path: str, verdict: Verdict, rule: str) -> None:
        self._count(metric_names.DECISIONS, path, verdict, rule)

    def answered(
        self, method: str, route: str | None, status: int, seconds: float
    ) -> None:
        """Count a request by its *route*, a template, or None if there is none."""
        named = route or _NO_ROUTE
        known = method if method in _METHODS else OTHER
        self._count(metric_names.HTTP_REQUESTS, known, named, str(status))
        times = metric_names.HTTP_SECONDS
        bound = bucket_names(times)[bisect_left(times.buckets, seconds)]
        self._count(times, named, bound)
        self._count(times, named, _SUM, by=round(seconds * 1000))

    def run(self, counters: SharedState, clock: Clock, wait: Wait) -> None:
        """Store the counts until *wait* returns true, and when the process ends."""
        atexit.register(partial(self.flush_at_exit, counters, clock))
        flush = partial(self.flush, counters, clock)
        event = "counts-not-stored"
        repeat(flush, wait, FLUSH_SECONDS, log=self._log, event=event)

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

    def _count(self, spec: Spec, *labels: str, by: int = 1) -> None:
        words = (spec.name, *map(str, labels))
        with self._lock:
            self._counts[words] += by
