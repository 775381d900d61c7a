"""Counts refusals, decisions and signatures in the database, for all processes."""

import atexit
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Lock

import structlog

from signer.errors import HotWalletError
from signer.model.decision import Verdict
from signer.policy.facts import Path
from signer.ports import Clock, Meter, SharedCounters


FLUSH_SECONDS = 5.0
"""How often counts are stored: one small commit, if something was counted."""

REFUSED = "refused"
"""The name of the counts of refused requests, by the code of the error."""

DECIDED = "decided"
"""The name of the counts of decisions, by path, verdict and rule."""


SIGNED = "signed"
"""The name of the counts of signatures, by backend and outcome."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

_PATHS = frozenset(map(str, Path))
_VERDICTS = frozenset(map(str, Verdict))


def read_refusals(counts: Mapping[tuple[str, ...], int]) -> Mapping[str, int]:
    """Return which of *counts* are of refused requests, by code."""
    return {
        name[1]: count
        for name, count in counts.items()
        if name[0] == REFUSED and len(name) == 2  # noqa: PLR2004
    }


def read_decisions(
    counts: Mapping[tuple[str, ...], int],
) -> Mapping[tuple[str, str, str], int]:
    """
    Return which of *counts* are of decisions, by path, verdict and rule.

    Another program may have written rows: those of no path or verdict are left out.
    """
    found = {}
    for name, count in counts.items():
        match name:
            case (kind, path, verdict, rule) if (
                kind == DECIDED and path in _PATHS and verdict in _VERDICTS
            ):
                found[path, verdict, rule] = count
    return found


def read_signatures(
    counts: Mapping[tuple[str, ...], int],
) -> Mapping[tuple[str, str], int]:
    """
    Return which of *counts* are of signatures, by backend and outcome.

    Another program may have written rows: those of no such names are left out.
    """
    found = {}
    for name, count in counts.items():
        match name:
            case (kind, backend, outcome) if (
                kind == SIGNED and _NAME.fullmatch(backend) and _NAME.fullmatch(outcome)
            ):
                found[backend, outcome] = count
    return found


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

    def run(
        self, counters: SharedCounters, clock: Clock, wait: Callable[[float], bool]
    ) -> None:
        """Store the counts until *wait* returns true, and when the process ends."""
        atexit.register(partial(self.flush_at_exit, counters, clock))
        while not wait(FLUSH_SECONDS):
            try:
                self.flush(counters, clock)
            except HotWalletError as e:
                self._log.warning("counts-not-stored", code=e.code)

    def flush(self, counters: SharedCounters, clock: Clock) -> None:
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

    def flush_at_exit(self, counters: SharedCounters, clock: Clock) -> None:
        """Store the counts, if the database answers."""
        with suppress(HotWalletError):
            self.flush(counters, clock)

    def _count(self, *name: str) -> None:
        words = tuple(map(str, name))
        with self._lock:
            self._counts[words] += 1
