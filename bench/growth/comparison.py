"""Measures the same work in a small and in a large case, in turns."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.harness import Figure, Goal, Values, Work


MOST = 1.2
"""The largest ratio of a large case to its small one."""

Durations = Mapping[str, float]
"""Seconds by the name of the work."""

Measure = Callable[[], Durations]

_MICRO = 1e6


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    The rows *names*, and the work that measures them.

    *small* and *large* name the two cases, such as "10 refunds".
    """

    figures: Sequence[Figure]
    work: Work


def compare(
    names: Sequence[str],
    small: tuple[str, Measure],
    large: tuple[str, Measure],
    *,
    at_least: int = 3,
    at_most: int = 1000,
) -> Comparison:
    """
    Return the comparison of two cases, each a label and what measures it once.

    Both are measured *at_least* and *at_most* that often, in turns, and a value is the
    median of them.  A row shows the large case, and its ratio to the small one.
    """
    figures = [
        Figure(
            _label(name, large[0]),
            "us",
            (Goal(_label(name, small[0]), at_most=MOST),),
        )
        for name in names
    ]

    def work(seconds: float) -> Values:
        taken: dict[str, list[float]] = defaultdict(list)
        until = time.perf_counter() + seconds
        for done in range(at_most):
            if done >= at_least and time.perf_counter() >= until:
                break
            cases = (small, large) if done % 2 == 0 else (large, small)
            for label, measure in cases:
                for name, duration in measure().items():
                    taken[_label(name, label)].append(duration * _MICRO)
        return {name: statistics.median(each) for name, each in taken.items()}

    return Comparison(figures, work)


class Stopwatch:
    """Collects the duration of each named part of a work."""

    def __init__(self) -> None:
        self.durations: dict[str, float] = {}

    def time(self, name: str, action: Callable[[], object], count: int = 1) -> None:
        """Run *action*, which does *count* things, and note the seconds of one."""
        began = time.perf_counter()
        action()
        self.durations[name] = (time.perf_counter() - began) / count


def _label(name: str, case: str) -> str:
    return f"{name}, {case}"
