"""The events of a tenant, page by page, until they are deleted after their time."""

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from datetime import timedelta

import structlog

from signer.errors import CursorExpiredError
from signer.model.event import sequence_at
from signer.ports.clock import Clock
from signer.ports.event_store import EventPage, EventStore


GRACE = timedelta(days=1)
"""
How much longer than promised events are kept.

A reader that starts with the oldest ones has a day's lead over their deletion.
"""

_BATCH = 500
_BETWEEN_BATCHES = 0.5
_BETWEEN_LOOKS = 600.0


@dataclass(eq=False, repr=False)
class EventRetention:
    """
    Deletes events, with their deliveries, that are older than *keep* and ``GRACE``.

    An event stays while its delivery is pending or was given up, and so does the newest
    old one of each tenant, by which ``EventFeed`` knows that a cursor is too old.

    *timer* measures the pauses between batches, in seconds.
    """

    store: EventStore
    keep: timedelta
    clock: Clock
    _: KW_ONLY
    timer: Callable[[], float] = time.monotonic
    batch: int = _BATCH

    def __post_init__(self) -> None:
        self._due = 0.0
        self._after = 0
        self._log = structlog.get_logger("webhooks")

    def work(self) -> None:
        """Delete one batch, if one is due; raises ``StoreError``."""
        if self.timer() < self._due:
            return
        self._due = self.timer() + _BETWEEN_LOOKS
        before = self.clock() - self.keep - GRACE
        done = self.store.prune_events(before, self._after, self.batch)
        if done is not None and done.count:
            self._log.info("events-pruned", count=done.count)
        if done is None or done.count < self.batch:
            self._after = 0  # Those that stayed may be delivered until the next look.
            return
        self._after = done.last
        self._due = self.timer() + _BETWEEN_BATCHES


class EventFeed:
    """
    Reads events after a cursor, and promises that a reader misses none.

    A cursor is good for as long as the events after it are kept.  So a reader that
    comes back within *keep* has every event, and one that comes back too late gets an
    error instead of a gap.
    """

    def __init__(self, store: EventStore, keep: timedelta, clock: Clock) -> None:
        self._store = store
        self._keep = keep
        self._clock = clock

    def page(self, tenant: str, after: int, limit: int) -> EventPage:
        """
        Return up to *limit* events of *tenant* after the cursor *after*.

        0 begins with the oldest events that are certainly kept.

        Raises:
            CursorExpiredError: Events after the cursor may have been deleted.
        """
        now = self._clock()
        start = after or max(0, sequence_at(now - self._keep))
        page = self._store.events(tenant, start, limit, now)
        # The newest of the events that may be deleted stays.
        limit_of_cursors = sequence_at(now - self._keep - GRACE)
        first = page.events[0][0].sequence if page.events else None
        if after and first is not None and first <= limit_of_cursors:
            raise CursorExpiredError(
                "events after this cursor are no longer kept: list the refunds, and"
                " start again with after=0"
            )
        return page if page.cursor != start else replace(page, cursor=after)
