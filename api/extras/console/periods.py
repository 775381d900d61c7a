"""The periods that plots show, in equal parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise


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
        """Return the ends of all parts, one more than there are parts."""
        hours = int(self.step.total_seconds()) // 3600
        this_hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        # From midnight on, so that the parts of each day are the same.
        elapsed = this_hour.hour % hours
        end = this_hour - timedelta(hours=elapsed) + self.step
        return [end - self.step * n for n in range(self.parts, -1, -1)]

    def spans(self, now: datetime) -> Sequence[tuple[datetime, datetime]]:
        """Return the beginning and the end of each part."""
        return list(pairwise(self.edges(now)))

    def columns(self, now: datetime) -> Sequence[str]:
        """Return a name of each part."""
        return [f"{begin:%a %d %b %H:%M}-{end:%H:%M}" for begin, end in self.spans(now)]

    def marks(self, now: datetime) -> Sequence[str]:
        """Return the names of five times under the axis, the last one is now."""
        edges = self.edges(now)
        quarter = self.parts // 4
        return [*(f"{edges[n * quarter]:{self.mark_format}}" for n in range(4)), "now"]


DAY = ChartPeriod("day", "Last day", "hour", timedelta(hours=1), 24, "%H:%M")
WEEK = ChartPeriod("week", "Last week", "6 hours", timedelta(hours=6), 28, "%a %H:%M")

PERIODS = {each.name: each for each in (DAY, WEEK)}
