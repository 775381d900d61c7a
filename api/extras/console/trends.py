"""
How refunds went over the last day or week, in equal parts.

Each part of a period is counted by itself, and looks at a bounded number of rows, so a
page costs the same in a ledger of any size.

The templates draw a ``Plot`` as SVG in the page, with colours from the style sheet: the
policy allows no script, image or style in it.  Marks are in a box of 1000 by 100 units
that is stretched to the width of the page.  The texts are HTML beside it, which a phone
does not shrink.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from api.extras.console.refunds import ConsoleTables
from api.extras.console.rendering import format_seconds
from signer.audit.checkpoints import Verify, statement_of
from signer.model.audit_record import made_at
from signer.model.refund import Status
from signer.ports.ledger import Ledger


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


@dataclass(frozen=True, slots=True)
class ChartPeriod:
    """
    A time of equal parts that ends with the current one; ``step`` is in whole hours.

    ``mark_format`` is how the axis names a time.
    """

    name: str
    title: str
    step_name: str
    step: timedelta
    parts: int
    mark_format: str

    def edges(self, now: datetime) -> Sequence[datetime]:
        hours = int(self.step.total_seconds()) // 3600
        this_hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        # From midnight on, so that the parts of each day are the same.
        elapsed = this_hour.hour % hours
        end = this_hour - timedelta(hours=elapsed) + self.step
        return [end - self.step * n for n in range(self.parts, -1, -1)]

    def spans(self, now: datetime) -> Sequence[tuple[datetime, datetime]]:
        return list(pairwise(self.edges(now)))

    def columns(self, now: datetime) -> Sequence[str]:
        return [f"{begin:%a %d %b %H:%M}-{end:%H:%M}" for begin, end in self.spans(now)]

    def marks(self, now: datetime) -> Sequence[str]:
        """Return the names of five times under the axis, the last one is now."""
        edges = self.edges(now)
        quarter = self.parts // 4
        return [*(f"{edges[n * quarter]:{self.mark_format}}" for n in range(4)), "now"]


DAY = ChartPeriod("day", "Last day", "hour", timedelta(hours=1), 24, "%H:%M")
WEEK = ChartPeriod("week", "Last week", "6 hours", timedelta(hours=6), 28, "%a %H:%M")

PERIODS = {each.name: each for each in (DAY, WEEK)}


MOST_REFUNDS = 5_000
"""How many refunds are counted in one part of a period, at most."""

MOST_TIMES = 500
"""Of how many refunds of one part the time to the broadcast is read, at most."""

_CHECKPOINTS = 40
_MEDIAN, _P99 = 0.5, 0.99

_OUTCOMES: Mapping[str, tuple[str, frozenset[Status]]] = {
    "confirmed": ("fill-good", frozenset({Status.CONFIRMED})),
    "open": (
        "fill-info",
        frozenset(
            {
                Status.QUEUED,
                Status.RESERVED,
                Status.SIGNED,
                Status.BROADCAST,
                Status.MINED,
            }
        ),
    ),
    "awaiting approval": ("fill-warn", frozenset({Status.AWAITING_APPROVAL})),
    "cancelled": ("fill-soft", frozenset({Status.CANCELLED})),
    "failed or refused": ("fill-bad", frozenset({Status.FAILED, Status.REFUSED})),
}
"""The parts of a bar, from the bottom up: their names, colours and statuses."""


def plot_refunds(ledger: Ledger, period: ChartPeriod, now: datetime) -> Plot:
    """Return the refunds by the time of acceptance and by what became of them."""
    counts = [
        ledger.tables(ConsoleTables).results_between(since, until, MOST_REFUNDS)
        for since, until in period.spans(now)
    ]
    total: Counter[str] = Counter()
    series = []
    for name, (kind, statuses) in _OUTCOMES.items():
        values = [
            sum(count for status, count in each.items() if status in statuses)
            for each in counts
        ]
        total[name] = sum(values)
        series.append(Series(name, kind, values))
    parts = ", ".join(f"{count} {name}" for name, count in total.items() if count)
    summary = f"{total.total()} accepted: {parts}." if parts else "None were accepted."
    if any(sum(each.values()) >= MOST_REFUNDS for each in counts):
        summary += f" A bar counts {MOST_REFUNDS:,} refunds at most."
    return Plot(
        id="refunds",
        title=f"Refunds per {period.step_name}",
        summary=summary,
        columns=period.columns(now),
        marks=period.marks(now),
        series=series,
    )


def plot_broadcasts(ledger: Ledger, period: ChartPeriod, now: datetime) -> Plot:
    """Return the time from the acceptance of refunds to their first broadcast."""
    times = [
        ledger.tables(ConsoleTables).broadcast_seconds(since, until, MOST_TIMES)
        for since, until in period.spans(now)
    ]
    everything = sorted(seconds for each in times for seconds in each)
    summary = "None were broadcast."
    if everything:
        summary = (
            f"Half within {format_seconds(quantile(everything, _MEDIAN))}, 99 % within"
            f" {format_seconds(quantile(everything, _P99))}."
        )
    if any(len(each) >= MOST_TIMES for each in times):
        summary += f" A bar counts its newest {MOST_TIMES} refunds."
    return Plot(
        id="broadcasts",
        title="From acceptance to broadcast",
        summary=summary,
        columns=period.columns(now),
        marks=period.marks(now),
        series=[
            Series("99 % within", "fill-pale", [quantile(t, _P99) for t in times]),
            Series("half within", "fill-info", [quantile(t, _MEDIAN) for t in times]),
        ],
        is_stacked=False,
        unit=" s",
    )


def plot_checkpoints(ledger: Ledger, verify: Verify | None) -> Plot:
    """
    Return how long after its newest record each of the last checkpoints was made.

    One that *verify* does not accept is left out: another program stored it.  Without
    *verify* there is no key, and all of them count.
    """
    size, _ = ledger.head()
    stored = reversed(ledger.newest_checkpoints(0, size, _CHECKPOINTS))
    found: list[tuple[datetime, float]] = []
    for checkpoint in stored:
        statement = (verify or statement_of)(checkpoint)
        if statement is None:
            continue
        last = ledger.sealed(statement.size - 1, 1)
        made = made_at(last[0].record.id) if last else None
        if made is not None:
            found.append(
                (statement.at, max(0.0, (statement.at - made).total_seconds()))
            )
    delays = [seconds for _, seconds in found]
    times = [f"{at:%d %b %H:%M:%S}" for at, _ in found]
    return Plot(
        id="checkpoints",
        title="From a record to its checkpoint",
        summary=_summarize(delays),
        columns=times,
        marks=[times[0], times[-1]] if len(times) >= FEWEST else times[:1],
        series=[Series("after the newest record", "fill-info", delays)],
        unit=" s",
    )


def _summarize(delays: Sequence[float]) -> str:
    if not delays:
        return "There is no checkpoint yet."
    longest = format_seconds(max(delays))
    if len(delays) == 1:
        return f"{longest} in the only checkpoint."
    return f"At most {longest} in the newest {len(delays)} checkpoints."


@dataclass(frozen=True, slots=True)
class Blocker:
    """How many open refunds a code delays, and since when the oldest waits."""

    code: str
    number: int
    since: datetime


def find_blockers(ledger: Ledger) -> Sequence[Blocker]:
    """Return what delays open refunds, the most frequent first."""
    found: dict[str, Blocker] = {}
    for group in ledger.open_refunds():
        if group.blocked_by is None:
            continue
        before = found.get(group.blocked_by, Blocker(group.blocked_by, 0, group.since))
        found[group.blocked_by] = Blocker(
            group.blocked_by,
            before.number + group.number,
            min(before.since, group.since),
        )
    return sorted(found.values(), key=lambda each: (-each.number, each.code))


def recent_p99(ledger: Ledger, now: datetime) -> float | None:
    """Return the seconds within which 99 % of the last hour's refunds were sent."""
    since, until = now - timedelta(hours=1), now + timedelta(seconds=1)
    return quantile(
        ledger.tables(ConsoleTables).broadcast_seconds(since, until, MOST_TIMES), _P99
    )


def quantile(ordered: Sequence[float], part: float) -> float | None:
    """Return the value below which *part* of *ordered* is; None if it is empty."""
    return ordered[math.ceil(part * len(ordered)) - 1] if ordered else None
