"""Old events are deleted in batches, and nothing else, on every store."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, select

from backends.sql import SQLStore
from backends.sql.advisory_locks import try_to_lock_events
from backends.sql.tables import events, webhook_deliveries
from signer.errors import StoreError
from signer.model.event import DeliveryState, sequence_at
from signer.ports.event_store import DeliveryAttempt, Pruned
from tests.fixtures.ledger import accepted, forge, now
from tests.support.ledgers import open_ledger


AGO = timedelta(days=100)
BEFORE = timedelta(days=90)


def _events(
    store: SQLStore,
    count: int,
    tenant: str = "gateway",
    *,
    ago: timedelta = AGO,
    has_webhook: bool = False,
) -> list[str]:
    """Return events that got their place in the order *ago*, the oldest first."""
    for _ in range(count):
        accepted(store, tenant=tenant)
    known = set(_ids(store))
    store.sequence_events(count, now() - ago, lambda _: has_webhook)
    found = store._database.rows(
        select(events.c.id, events.c.sequence)
        .where(events.c.tenant == tenant, events.c.sequence > 0)
        .order_by(events.c.sequence.desc())
        .limit(count)
    )
    assert known
    return [row.id for row in reversed(found)]


def _ids(store: SQLStore) -> list[str]:
    query = select(events.c.id).order_by(events.c.sequence)
    return [row.id for row in store._database.rows(query)]


def _delivered(store: SQLStore, ago: timedelta = AGO) -> None:
    """Deliver all that is due, *ago*."""
    at = now() - ago + timedelta(seconds=1)
    free = {"gateway": 99, "shop": 99}
    for due in store.claim_deliveries(free, 99, at, at + timedelta(minutes=1)):
        attempt = DeliveryAttempt(due.delivery, DeliveryState.DELIVERED, at)
        store.record_attempts([attempt], at)


def _prune(store: SQLStore, after: int = 0, limit: int = 99) -> Pruned | None:
    return store.prune_events(now() - BEFORE, after, limit)


def test_the_newest_old_event_of_a_tenant_stays(store: SQLStore) -> None:
    """So does what is not old, and what has no place in the order."""
    old = _events(store, 3)
    (shop,) = _events(store, 1, "shop")
    new = _events(store, 2, ago=timedelta(days=1))
    accepted(store)
    (unplaced,) = set(_ids(store)) - {*old, shop, *new}
    done = _prune(store)

    assert done is not None
    assert done.count == 2
    assert set(_ids(store)) == {old[2], shop, *new, unplaced}
    assert _prune(store) == Pruned(0, 0)


def test_batches(store: SQLStore) -> None:
    """Each continues after the last one."""
    _events(store, 6)
    first = _prune(store, limit=2)
    assert first is not None
    second = _prune(store, first.last, 2)
    assert second is not None
    third = _prune(store, second.last, 2)

    assert (first.count, second.count) == (2, 2)
    assert third is not None
    assert third.count == 1
    assert first.last < second.last < third.last
    assert len(_ids(store)) == 1


def test_what_has_not_arrived_stays(store: SQLStore) -> None:
    """Pending, given up, and replayed later; with what arrived the delivery goes."""
    arrived = _events(store, 2, has_webhook=True)
    _delivered(store)
    (given_up,) = _events(store, 1, has_webhook=True)
    at = now() - AGO + timedelta(seconds=9)
    (due,) = store.claim_deliveries({"gateway": 9}, 9, at, at + timedelta(minutes=1))
    dead = DeliveryAttempt(due.delivery, DeliveryState.DEAD, at, "unreachable")
    store.record_attempts([dead], at)
    (pending,) = _events(store, 1, has_webhook=True)
    newest = _events(store, 1)
    done = _prune(store)

    assert done is not None
    assert done.count == 2
    assert set(_ids(store)) == {given_up, pending, *newest}
    kept = store._database.rows(select(webhook_deliveries.c.event_id))
    assert {row.event_id for row in kept} == {given_up, pending}
    assert not set(arrived) & set(_ids(store))


def test_a_replayed_event_is_kept_as_long_as_a_new_one(store: SQLStore) -> None:
    replayed, _ = _events(store, 2, has_webhook=True)
    _delivered(store)
    store.replay_deliveries([replayed], now(), lambda _: True)
    _delivered(store, timedelta(0))

    assert _prune(store) == Pruned(0, 0)
    assert replayed in _ids(store)


def test_one_process_at_a_time(postgresql_url: str) -> None:
    """Another one leaves it to the first; on SQLite a writer has the whole database."""
    store, other = open_ledger(postgresql_url), open_ledger(postgresql_url)
    _events(store, 2)

    def meanwhile(connection: Connection) -> None:
        assert try_to_lock_events(connection)
        assert _prune(other) is None

    store._database.transaction(meanwhile)

    assert len(_ids(store)) == 2
    store.close()
    other.close()


def test_the_database_keeps_what_is_needed(store: SQLStore) -> None:
    """No role can delete the events of the last week, or what has not arrived."""
    _events(store, 1, has_webhook=True)
    _events(store, 1, ago=timedelta(days=6), has_webhook=True)
    accepted(store)
    before = _ids(store)
    for kept in (
        "events",
        "events WHERE sequence IS NULL",
        "webhook_deliveries",
        "webhook_deliveries WHERE state = 'pending'",
    ):
        with pytest.raises(StoreError):
            forge(store, f"DELETE FROM {kept}")

        assert _ids(store) == before


def test_numbers_still_rise(store: SQLStore) -> None:
    """A new event comes after all that were deleted."""
    _events(store, 3)
    _prune(store)
    (new,) = _events(store, 1, ago=timedelta(0))
    page = store.events("gateway", sequence_at(now() - BEFORE), 9, now())

    assert [event.id for event, _ in page.events] == [new]
