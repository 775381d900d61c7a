"""The events of a tenant, page by page, for as long as they are kept."""

from dataclasses import replace
from datetime import timedelta

from signer.errors import CursorExpiredError
from signer.model.event import sequence_at
from signer.ports.clock import Clock
from signer.ports.event_store import EventPage, EventStore
from signer.webhooks.retention import GRACE


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
