"""
Plots as values: what is drawn, and the same as a table.

The templates draw them as SVG in the page, with colours from the style sheet.  A plot
needs no script, no image and no style in the page, so the policy allows none.  Marks
are in a box of 1000 by 100 units that is stretched to the width of the page.  The texts
are HTML beside it, which a phone does not shrink.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


WIDTH, HEIGHT = 1000.0, 100.0
"""The box of the marks, in units."""

_GAP = 0.2  # Of a column's width, between two bars.
FEWEST = 12
"""With fewer columns, a bar is no wider."""

_LEAST = 1.0  # A value above zero must be visible.


@dataclass(frozen=True, slots=True)
class Series:
    """
    One value per column; None is unknown.

    ``kind`` is the class of the style sheet that has its colour.
    """

    name: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of the plot, and what a pointer over it says."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """
    Bars over the same columns: parts that add up if ``is_stacked``, or else values one
    before the other, the largest first.

    ``id`` is unique in the page.  ``summary`` says in a sentence what the plot shows.
    ``columns`` are the names of the columns, and ``marks`` those under the axis, from
    left to right.  ``unit`` follows each value.
    """

    id: str
    title: str
    summary: str
    columns: Sequence[str]
    marks: Sequence[str]
    series: Sequence[Series]
    is_stacked: bool = True
    unit: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(value for each in self.series for value in each.values)

    @property
    def top(self) -> float:
        """The end of the axis."""
        columns = list(
            zip(*(map(_or_zero, each.values) for each in self.series), strict=True)
        )
        if self.is_stacked:
            return round_up(max(map(sum, columns), default=0.0))
        return round_up(max(map(max, columns), default=0.0))

    @property
    def bars(self) -> Sequence[Bar]:
        """What is drawn, from the left to the right, and from the back to the front."""
        return [
            bar
            for index, column in enumerate(self.columns)
            for bar in self._column(index, column)
        ]

    def format(self, value: float | None) -> str:
        """Return *value* with the unit; a dash for None."""
        return "-" if value is None else f"{value:.4g}{self.unit}"

    def _column(self, index: int, name: str) -> Iterator[Bar]:
        width = WIDTH / max(len(self.columns), FEWEST)
        bottom = 0.0
        for each in self.series:
            value = _or_zero(each.values[index])
            if not value:
                continue
            height = max(_LEAST, HEIGHT * value / self.top)
            yield Bar(
                each.kind,
                round((index + _GAP / 2) * width, 2),
                round(max(0.0, HEIGHT - bottom - height), 2),
                round(width * (1 - _GAP), 2),
                round(height, 2),
                f"{name}: {self.format(value)} {each.name}",
            )
            if self.is_stacked:
                bottom += height


def round_up(value: float) -> float:
    """
    Return the smallest of 1, 2, 5, 10, 20, ... that is not below *value*.

    >>> round_up(37), round_up(0.4), round_up(0)
    (50.0, 0.5, 1.0)
    """
    if value <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(value))
    for step in (1, 2, 5, 10):
        if value <= step * magnitude * (1 + 1e-9):
            return step * magnitude
    return 10 * magnitude


def share(value: float, whole: float) -> float:
    """Return the percentage of *whole* that *value* is, from 0 to 100."""
    return round(min(100.0, max(0.0, 100 * value / whole)), 1) if whole > 0 else 0.0


def _or_zero(value: float | None) -> float:
    return value or 0.0
