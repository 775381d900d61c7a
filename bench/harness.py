"""
Rounds of interleaved work, and what they show: medians with spread, and paired ratios.

Other load on the machine disturbs every figure.  Therefore each round runs a baseline
and what is compared with it one after the other, every second round in reverse order,
and a ratio is of two figures of the same round.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


Values = Mapping[str, float]
"""What one round measured: a value for each figure's name."""

Work = Callable[[float], Values]
"""Runs for about so many seconds; returns what it measured."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, range and median absolute deviation of *count* values."""

    count: int
    minimum: float
    median: float
    maximum: float
    mad: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Describe *values*; raises ``StatisticsError`` if there are none."""
        median = statistics.median(values)
        mad = statistics.median(abs(value - median) for value in values)
        return cls(len(values), min(values), median, max(values), mad)

    def document(self) -> dict[str, float]:
        """Return the spread as JSON, with six significant digits."""
        names = ("minimum", "median", "maximum", "mad")
        rounded = {name: float(f"{getattr(self, name):.6g}") for name in names}
        return {"count": self.count, **rounded}


@dataclass(frozen=True, slots=True)
class Goal:
    """
    A figure divided by *baseline*, and the bound that the median should keep.

    The baseline is the name of another figure of the scenario, or a constant.
    """

    baseline: str | float
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, ratio: float) -> bool | None:
        """Return whether *ratio* keeps the bound; None if there is none."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return None if self.at_most is None else ratio <= self.at_most


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that each round measures, and what it is compared with."""

    name: str
    unit: str
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """The figures and the work of a scenario whose servers run."""

    figures: Sequence[Figure]
    works: Sequence[Work]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    One set of comparable figures.

    *open* starts the servers in a folder; its flag asks for the quick version.
    *seconds* is the length of each work in each of *rounds* rounds, and
    *quick_seconds* its length in the only round of a quick run.
    """

    name: str
    title: str
    open: Callable[[Path, bool], AbstractContextManager[Prepared]]
    rounds: int = 5
    seconds: float = 1.0
    quick_seconds: float = 0.05


def run_rounds(
    works: Sequence[Work], *, rounds: int, seconds: float, report: Report
) -> list[Values]:
    """
    Warm up, then run all *works* in each round; return each round's values.

    A single round needs no warm-up: it shows that the work runs, and compares nothing.
    """
    for work in works if rounds > 1 else ():
        work(seconds / 4)
    taken: list[Values] = []
    for number in range(rounds):
        report(f"round {number + 1} of {rounds}")
        values: dict[str, float] = {}
        for work in works if number % 2 == 0 else reversed(works):
            values.update(work(seconds))
        taken.append(values)
    return taken


def summarise(
    figures: Iterable[Figure], rounds: Sequence[Values]
) -> list[dict[str, Any]]:
    """Return each figure that the *rounds* measured as JSON, with its ratios."""
    documents = []
    for figure in figures:
        values = [taken[figure.name] for taken in rounds if figure.name in taken]
        if not values:
            continue
        ratios = [_compare(figure.name, goal, rounds) for goal in figure.goals]
        documents.append(
            {
                "name": figure.name,
                "unit": figure.unit,
                "values": Spread.of(values).document(),
                "ratios": [ratio for ratio in ratios if ratio is not None],
            }
        )
    return documents


def _compare(name: str, goal: Goal, rounds: Sequence[Values]) -> dict[str, Any] | None:
    """Return the paired ratios; None if no round has both figures."""
    ratios = [
        taken[name] / base
        for taken in rounds
        if name in taken and (base := _baseline(goal, taken))
    ]
    if not ratios:
        return None
    spread = Spread.of(ratios)
    return {
        "baseline": goal.baseline,
        "at_least": goal.at_least,
        "at_most": goal.at_most,
        "spread": spread.document(),
        "is_met": goal.is_met(spread.median),
    }


def _baseline(goal: Goal, taken: Values) -> float | None:
    if isinstance(goal.baseline, str):
        return taken.get(goal.baseline)
    return goal.baseline
