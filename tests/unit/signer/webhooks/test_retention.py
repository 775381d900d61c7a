"""How long events are kept, and what a cursor promises."""

from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.errors import CursorExpiredError
from signer.model.event import sequence_at
from signer.ports.clock import utc_now
from signer.ports.event_store import Pruned
from signer.webhooks.event_feed import EventFeed, EventRetention
from tests.fixtures.ledger import accepted
from tests.support.refunds import altered
from tests.support.waiting import Timer
from tests.support.webhooks import Receiver, dispatcher


KEEP = timedelta(days=90)
DAY = timedelta(days=1)


def _event(store: SQLStore, at: datetime) -> int:
    """Return the sequence number of a new event that gets it at *at*."""
    accepted(store)
    store.sequence_events(1, at, lambda _: False)
    number = store.events("gateway", 0, 99, utc_now() + DAY).events[-1][0].sequence
    assert number is not None
    return number


def _read(feed: EventFeed, after: int) -> list[int | None]:
    return [event.sequence for event, _ in feed.page("gateway", after, 9).events]


def test_a_reader_that_comes_back_in_time_misses_nothing(
    sqlite_store: SQLStore,
) -> None:
    """Its cursor may be as old as the events; what follows it may not."""
    now = utc_now()
    old, newer = _event(sqlite_store, now - 400 * DAY), _event(sqlite_store, now - DAY)
    feed = EventFeed(sqlite_store, KEEP, lambda: now)

    assert _read(feed, old) == [newer]
    for cursor in (newer, newer + 7):
        assert feed.page("gateway", cursor, 9).cursor == cursor  # An empty page.


def test_a_reader_that_comes_too_late_gets_an_error(sqlite_store: SQLStore) -> None:
    """Whether the events were deleted already or not."""
    now = utc_now()
    read, missed, last = (_event(sqlite_store, now - n * DAY) for n in (99, 98, 92))
    _event(sqlite_store, now - DAY)
    feed = EventFeed(sqlite_store, KEEP, lambda: now)
    retention = EventRetention(sqlite_store, KEEP, lambda: now, timer=Timer())
    for _ in range(2):
        for cursor in (1, read, missed):
            with pytest.raises(CursorExpiredError, match="after=0"):
                feed.page("gateway", cursor, 9)
        assert len(_read(feed, last)) == 1
        retention.work()

    assert len(sqlite_store.events("gateway", 0, 9, now).events) == 2


def test_the_beginning_is_what_is_certainly_kept(sqlite_store: SQLStore) -> None:
    """A reader that starts there has a day until its cursor is too old."""
    now = utc_now()
    for ago in (99, 90.5):
        _event(sqlite_store, now - ago * DAY)
    first, second = (_event(sqlite_store, now - n * DAY) for n in (89.9, 1))
    feed = EventFeed(sqlite_store, KEEP, lambda: now)
    (event, _), *_ = feed.page("gateway", 0, 1).events
    later = EventFeed(sqlite_store, KEEP, lambda: now + DAY)

    assert event.sequence == first
    assert _read(later, first) == [second]


def test_small_batches(sqlite_store: SQLStore) -> None:
    """One after the other with pauses, and then none for ten minutes."""
    now = utc_now()
    for n in range(6):
        _event(sqlite_store, now - 99 * DAY + timedelta(seconds=n))
    timer = Timer()
    retention = EventRetention(sqlite_store, KEEP, lambda: now, timer=timer, batch=2)
    left = []
    with capture_logs() as logs:
        for seconds in (0, 0.1, 0.5, 0.5, 60):
            timer.now += seconds
            retention.work()
            left.append(len(sqlite_store.events("gateway", 0, 9, now).events))

    assert left == [4, 4, 2, 1, 1]
    assert [(each["event"], each["count"]) for each in logs] == [
        ("events-pruned", 2),
        ("events-pruned", 2),
        ("events-pruned", 1),
    ]


def test_another_process_deletes(sqlite_store: SQLStore) -> None:
    """Then this one looks again in ten minutes, from the beginning."""
    asked: list[int] = []

    def prune(_: datetime, after: int, limit: int) -> Pruned | None:
        asked.append(after)
        return [Pruned(limit, 7), None, Pruned(0, 0)][len(asked) - 1]

    timer = Timer()
    store = altered(sqlite_store, prune_events=prune)
    retention = EventRetention(store, KEEP, utc_now, timer=timer)
    for seconds in (0, 1, 1, 600):
        timer.now += seconds
        retention.work()

    assert asked == [0, 7, 0]


def test_the_dispatcher_deletes(sqlite_store: SQLStore) -> None:
    """In its thread, after the deliveries."""
    now = utc_now()
    for n in range(2):
        _event(sqlite_store, now - 99 * DAY + timedelta(seconds=n))
    retention = EventRetention(sqlite_store, KEEP, utc_now)
    dispatcher(sqlite_store, Receiver(), {}, retention=retention).work()

    (event, _), *others = sqlite_store.events("gateway", 0, 9, now).events
    assert others == []
    assert event.sequence is not None
    assert event.sequence > sequence_at(now - 99 * DAY)
