"""The events of refunds in one order, their deliveries, and their end."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta

import psycopg
import pytest
from sqlalchemy import Connection, select

from backends.sql import SQLStore
from backends.sql.advisory_locks import try_to_lock_events
from backends.sql.tables import events, webhook_deliveries
from signer.errors import StoreError
from signer.model.event import NOT_AUTHENTIC, DeliveryState, Event, sequence_at
from signer.model.refund import OPERATOR, Refund, Status
from signer.ports.event_store import (
    DeliveryAttempt,
    DeliveryFilter,
    DueDelivery,
    EventStore,
    Pruned,
)
from tests.fixtures.ledger import (
    WALLET,
    accept,
    accepted,
    bound,
    broadcast,
    change_of,
    forge,
    later,
    mined,
    moved,
    now,
    save,
    step_to,
    stored,
)
from tests.support.audit import overruled
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


def sequence(store: EventStore, limit: int = 1000, *, webhook: bool = False) -> int:
    """Sequence events, and return how many were taken."""
    done = store.sequence_events(limit, now(), lambda _: webhook)
    assert done is not None
    assert not done.forged
    return done.count


def listed(store: EventStore, after: int = 0, tenant: str = "gateway") -> list[Event]:
    """Return the events of *tenant* in their order."""
    return [event for event, _ in store.events(tenant, after, 1000, now()).events]


def _confirmed(store: SQLStore) -> Refund:
    return moved(store, mined(store, broadcast(store)), Status.CONFIRMED)


def test_the_events_of_a_payment(store: SQLStore) -> None:
    """Each is the refund as it was: no transaction before there was one."""
    refund = _confirmed(store)
    sequence(store)
    found = store.events("gateway", 0, 10, now()).events

    assert [event.status for event, _ in found] == [
        Status.QUEUED,
        Status.BROADCAST,
        Status.CONFIRMED,
    ]
    first, sent, last = (event.refund_then(about) for event, about in found)
    assert (first.nonce, first.sender, first.tx_hash) == (None, None, None)
    assert (sent.nonce, sent.sender, sent.block_number) == (0, WALLET, None)
    assert sent.tx_hash == refund.tx_hash
    assert (last.tx_hash, last.block_number) == (refund.tx_hash, 7)
    assert {about for _, about in found} == {stored(store, refund)}
    assert first.updated_at < last.updated_at == refund.updated_at


def test_a_change_that_fails_is_no_event(store: SQLStore) -> None:
    """An event is written in the transaction of the change, or not at all."""
    refund = accepted(store)
    with pytest.raises(StoreError):
        moved(store, replace(refund, version=5), Status.CANCELLED)
    accept(store, refund)  # Repeated.
    save(store, refund, refund.with_due_at(now()))
    sequence(store)

    assert [event.version for event in listed(store)] == [0]


def test_changes_that_are_saved_together(store: SQLStore) -> None:
    """Each has its event, whether it is stored alone or with others."""
    refunds = [accepted(store) for _ in range(3)]
    changes = [
        change_of(each, step_to(each, Status.CANCELLED, now())) for each in refunds
    ]
    assert store.save_all(changes) == [None] * 3
    sequence(store)

    assert sorted(each.refund_id for each in listed(store) if each.version) == sorted(
        each.id for each in refunds
    )


def test_no_event_has_a_place_before_it_is_sequenced(store: SQLStore) -> None:
    accepted(store)

    assert listed(store) == []
    assert sequence(store) == 1
    assert sequence(store) == 0
    assert len(listed(store)) == 1


def test_a_cursor_misses_nothing(store: SQLStore) -> None:
    """Pages continue where the last one ended, and the numbers rise with the time."""
    for _ in range(5):
        accepted(store)
    sequence(store, limit=2)
    first = listed(store)
    sequence(store, limit=2)
    second = listed(store, first[-1].sequence or 0)
    sequence(store)
    third = listed(store, second[-1].sequence or 0)

    assert [len(each) for each in (first, second, third)] == [2, 2, 1]
    numbers = [event.sequence or 0 for event in listed(store)]
    assert numbers == sorted(set(numbers))
    assert listed(store) == [*first, *second, *third]
    assert abs(numbers[0] - now().timestamp() * 1e6) < 60e6


def test_a_clock_that_is_set_back(store: SQLStore) -> None:
    """The numbers still rise."""
    accepted(store)
    sequence(store)
    accepted(store)
    store.sequence_events(10, later(-3600), lambda _: False)
    numbers = [event.sequence or 0 for event in listed(store)]

    assert numbers[1] == numbers[0] + 1


def test_a_number_of_the_far_future_is_ignored(store: SQLStore) -> None:
    """A program that can write rows cannot use up the numbers."""
    accepted(store)
    forge(store, f"UPDATE events SET sequence = {2**63 - 1}")
    accepted(store)
    sequence(store)

    (event,) = listed(store)
    assert abs((event.sequence or 0) - now().timestamp() * 1e6) < 60e6


def test_the_order_of_a_refund_survives_small_batches(store: SQLStore) -> None:
    refunds = [_confirmed(store) for _ in range(3)]
    while sequence(store, limit=2):
        pass
    for refund in refunds:
        found = [each for each in listed(store) if each.refund_id == refund.id]
        assert [each.version for each in found] == sorted(
            each.version for each in found
        )
        assert len(found) == 3


def test_tenants_see_their_own(store: SQLStore) -> None:
    accepted(store)
    accepted(store, tenant="shop")
    accepted(store, **bound())
    sequence(store)

    assert len(listed(store)) == len(listed(store, tenant="shop")) == 1
    assert listed(store, tenant=OPERATOR) == []
    assert listed(store, tenant="\0") == []


def test_an_event_never_changes(store: SQLStore) -> None:
    accepted(store)

    for change in (
        "status = 'awaiting-approval'",
        "tx_hash = '0x1'",
        "tenant = 'shop'",
        "id = 'evt_1'",
    ):
        with pytest.raises(StoreError):
            forge(store, f"UPDATE events SET {change}")


def test_an_event_of_another_program(store: SQLStore) -> None:
    """It is reported once, has no place, and does not hold up others."""
    refund = accepted(store)
    forge(
        store,
        "INSERT INTO events (id, tenant, refund_id, version, status, at, mac)"
        " SELECT 'evt_forged', tenant, refund_id, 9, 'confirmed', at, mac FROM events",
    )
    done = store.sequence_events(10, now(), lambda _: True)

    assert done is not None
    assert (done.count, done.forged) == (2, ["evt_forged"])
    assert [event.refund_id for event in listed(store)] == [refund.id]
    assert sequence(store) == 0
    claimed = store.claim_deliveries({"gateway": 9}, 9, later(1), later(60))
    assert [each.delivery.refund_id for each in claimed] == [refund.id]


def test_an_event_of_a_changed_refund(store: SQLStore, database_url: str) -> None:
    """An event says what the refund's row pays, so that must be authentic as well."""
    accepted(store)
    sequence(store, webhook=True)
    overruled(database_url, "UPDATE refunds SET recipient = 'thief'")

    assert listed(store) == []
    (due,) = store.claim_deliveries({"gateway": 9}, 9, later(1), later(60))
    assert (due.event, due.refund) == (None, None)


def test_a_reader_gets_past_events_of_another_program(
    store: SQLStore, database_url: str
) -> None:
    """Once they are old; a young one does not lead it past what is sequenced now."""
    accepted(store)
    sequence(store)
    overruled(database_url, "UPDATE events SET mac = NULL")
    (number,) = store._database.rows(select(events.c.sequence))[0]
    young = store.events("gateway", 7, 1, now())
    old = store.events("gateway", 7, 1, later(70))

    assert (young.events, young.cursor) == ([], 7)
    assert (old.events, old.cursor) == ([], number)


def test_readers_miss_nothing_while_others_write(database_url: str) -> None:
    """A reader that keeps a cursor sees each event once, in any order of commits."""
    writers, batches = 4, 12
    stores = [open_ledger(database_url) for _ in range(writers + 1)]
    reader = stores[-1]
    seen: list[str] = []
    done = 0

    def write(store: SQLStore) -> None:
        for _ in range(batches):
            moved(store, accepted(store), Status.CANCELLED)

    def read(after: int) -> int:
        page = listed(reader, after)
        seen.extend(event.id for event in page)
        return page[-1].sequence or 0 if page else after

    with ThreadPoolExecutor(writers) as pool:
        running = [pool.submit(write, store) for store in stores[:-1]]
        while not all(each.done() for each in running):
            reader.sequence_events(7, now(), lambda _: False)
            done = read(done)
        for each in running:
            each.result()
    while sequence(reader):
        pass
    read(done)
    expected = writers * batches * 2

    assert len(seen) == len(set(seen)) == expected
    assert {*seen} == {event.id for event in listed(reader)}
    for store in stores:
        store.close()


def test_one_process_sequences_at_a_time(postgresql_url: str) -> None:
    """The second one is turned away, and waits for nothing."""
    first, second = open_ledger(postgresql_url), open_ledger(postgresql_url)
    accepted(first)

    def meanwhile(_: Event) -> bool:
        assert second.sequence_events(10, now(), lambda _: False) is None
        return False

    done = first.sequence_events(10, now() + timedelta(seconds=1), meanwhile)
    assert done is not None
    assert done.count == 1
    first.close()
    second.close()


FREE = {"gateway": 9}


def _given(store: SQLStore, count: int = 1, tenant: str = "gateway") -> list[Refund]:
    """Return refunds with two events each, which have deliveries."""
    refunds = [
        moved(store, accepted(store, tenant=tenant), Status.CANCELLED)
        for _ in range(count)
    ]
    store.sequence_events(100, now(), lambda _: True)
    return refunds


def _claim_due(
    store: SQLStore, at: datetime | None = None, limit: int = 9
) -> Sequence[DueDelivery]:
    at = at or later(1)
    return store.claim_deliveries(FREE, limit, at, later(60))


def _finish(store: SQLStore, due: DueDelivery) -> None:
    attempt = DeliveryAttempt(due.delivery, DeliveryState.DELIVERED, now())
    store.record_attempts([attempt], now())


def _fail(store: SQLStore, due: DueDelivery, until: datetime) -> None:
    attempt = DeliveryAttempt(due.delivery, DeliveryState.PENDING, until, "status-500")
    store.record_attempts([attempt], now())


def _states(store: SQLStore) -> list[tuple[str, int, str | None]]:
    rows = [row for row, _ in store.deliveries(10)]
    return [(row.state, row.attempts, row.problem) for row in reversed(rows)]


def test_the_events_of_a_refund_are_claimed_in_order(store: SQLStore) -> None:
    """The next one is due once the one before it was delivered."""
    (refund,) = _given(store)
    (first,) = _claim_due(store)
    assert _claim_due(store) == []
    _finish(store, first)
    (second,) = _claim_due(store)
    _finish(store, second)

    assert first.event is not None
    assert second.event is not None
    assert (first.event.status, second.event.status) == (
        Status.QUEUED,
        Status.CANCELLED,
    )
    assert first.refund is not None
    assert first.refund.id == refund.id
    assert _claim_due(store) == []
    assert _states(store) == [("delivered", 1, None)] * 2


def test_refunds_do_not_wait_for_each_other(store: SQLStore) -> None:
    _given(store, 3)
    claimed = _claim_due(store)

    assert len({each.delivery.refund_id for each in claimed}) == len(claimed) == 3


def test_limits(store: SQLStore) -> None:
    """A tenant gets what it has free, and all together get the limit."""
    _given(store, 3)
    _given(store, 3, tenant="shop")
    at, until = later(1), later(60)
    first = store.claim_deliveries({"shop": 2, "gateway": 9}, 4, at, until)
    none = store.claim_deliveries({"other": 9}, 9, at, until)
    rest = store.claim_deliveries({"shop": 9, "gateway": 9}, 9, at, until)

    assert [each.delivery.tenant for each in first] == ["shop"] * 2 + ["gateway"] * 2
    assert none == []
    assert len(rest) == 2


def test_a_failed_delivery_holds_up_its_refund_only(store: SQLStore) -> None:
    """The later events of the refund wait with it, also those that come later."""
    failing = accepted(store)
    store.sequence_events(9, now(), lambda _: True)
    (first,) = _claim_due(store)
    _fail(store, first, later(30))
    moved(store, failing, Status.CANCELLED)
    _given(store)
    (other,) = _claim_due(store)
    later_ones = _claim_due(store, later(31))

    assert other.delivery.refund_id != failing.id
    assert [each.delivery.event_id for each in later_ones] == [first.delivery.event_id]
    assert later_ones[0].delivery.attempts == 1
    assert later_ones[0].delivery.problem == "status-500"


def test_a_claim_that_expired(store: SQLStore) -> None:
    """Another process delivers, and the late outcome of the first one is dropped."""
    _given(store)
    (first,) = _claim_due(store)
    (again,) = _claim_due(store, later(61))
    _finish(store, again)
    _fail(store, first, later(30))

    assert first.delivery.event_id == again.delivery.event_id
    assert _states(store)[0] == ("delivered", 1, None)


def test_a_dead_delivery_frees_its_refund(store: SQLStore) -> None:
    _given(store)
    (first,) = _claim_due(store)
    dead = DeliveryAttempt(first.delivery, DeliveryState.DEAD, now(), "unreachable")
    store.record_attempts([dead], now())
    (second,) = _claim_due(store)

    assert second.delivery.event_id != first.delivery.event_id
    given_up = store.deliveries(9, DeliveryFilter(state=DeliveryState.DEAD))
    assert [row.event_id for row, _ in given_up] == [first.delivery.event_id]


def test_a_replay(store: SQLStore) -> None:
    """An event is sent again, or for the first time; another tenant's id has none."""
    _given(store)
    (first,) = _claim_due(store)
    _finish(store, first)
    accepted(store)
    store.sequence_events(9, now(), lambda _: False)
    new = store.events("gateway", 0, 9, now()).events[-1][0].id
    given = [first.delivery.event_id, "evt_none", new, new, "\0"]

    assert store.replay_deliveries(given, now(), lambda _: True) == [given[0], new]
    assert store.replay_deliveries([new], now(), lambda _: False) == []
    claimed = {each.delivery.event_id for each in _claim_due(store)}
    assert claimed == {given[0], new}


def _give_up(store: SQLStore, problem: str = "unreachable") -> str:
    """Give up a delivery that is due, and return its event's id."""
    due, *_ = _claim_due(store, limit=1)
    dead = DeliveryAttempt(due.delivery, DeliveryState.DEAD, now(), problem)
    store.record_attempts([dead], now())
    return due.delivery.event_id


def test_a_replay_of_what_was_given_up(store: SQLStore) -> None:
    """The oldest first, up to the limit, of one tenant; the rest stays."""
    _given(store, 2)
    _given(store, tenant="shop")
    first, second = (_give_up(store) for _ in range(2))
    forged = _give_up(store, NOT_AUTHENTIC)

    assert store.replay_dead("gateway", 1, later(0)) == 1
    assert store.replay_dead("gateway", 9, later(0)) == 1
    assert store.replay_dead("gateway", 9, later(0)) == 0
    assert store.replay_dead("shop", 9, later(0)) == store.replay_dead("\0", 9, now())
    given_up = store.deliveries(9, DeliveryFilter(state=DeliveryState.DEAD))
    assert [row.event_id for row, _ in given_up] == [forged]
    found = store.find_delivery(first)
    assert found is not None
    assert (found[0].state, found[0].attempts, found[0].problem) == ("pending", 0, None)
    assert store.find_delivery(second)
    assert store.find_delivery("evt_none") is store.find_delivery("\0") is None


def test_pages_of_deliveries(store: SQLStore) -> None:
    """By tenant, state and refund, newest first, before a sequence number."""
    (refund,) = _given(store)
    (other,) = _given(store, tenant="shop")
    _give_up(store)
    everything = [row for row, _ in store.deliveries(9)]

    def refunds(wanted: DeliveryFilter, **given: int) -> list[str]:
        return [row.refund_id for row, _ in store.deliveries(9, wanted, **given)]

    assert refunds(DeliveryFilter("shop")) == [other.id] * 2
    assert refunds(DeliveryFilter(refund_id=refund.id)) == [refund.id] * 2
    assert refunds(DeliveryFilter("shop", DeliveryState.DEAD)) == []
    assert refunds(DeliveryFilter("gateway", DeliveryState.DEAD)) == [refund.id]
    assert refunds(DeliveryFilter("\0")) == []
    numbers = [row.sequence for row in everything]
    assert numbers == sorted(numbers, reverse=True)
    before = store.deliveries(9, before=numbers[1])
    assert [row for row, _ in before] == everything[2:]


def test_the_backlog(store: SQLStore) -> None:
    _given(store, 2)
    _given(store, 1, tenant="shop")
    first, second = _claim_due(store)
    _fail(store, first, later(30))
    dead = DeliveryAttempt(second.delivery, DeliveryState.DEAD, now(), "unreachable")
    store.record_attempts([dead], now())
    gateway, shop = store.webhook_backlog()

    assert (gateway.tenant, gateway.pending, gateway.failing, gateway.dead) == (
        "gateway",
        3,
        1,
        1,
    )
    assert (shop.pending, shop.failing, shop.dead) == (2, 0, 0)
    assert shop.oldest is not None
    assert abs((shop.oldest - now()).total_seconds()) < 60


def test_a_changed_row_does_not_move_an_event(store: SQLStore) -> None:
    """The event of one tenant does not go to the webhook of another."""
    _given(store, 1, tenant="shop")
    forge(store, "UPDATE webhook_deliveries SET tenant = 'gateway'")
    (due,) = _claim_due(store)

    assert due.event is None


def test_no_deliveries(store: SQLStore) -> None:
    store.record_attempts([], now())

    assert store.webhook_backlog() == ()
    assert _claim_due(store) == []
    assert store.deliveries(9) == []


def test_a_replay_holds_one_row_at_a_time(postgresql_url: str) -> None:
    """It cannot deadlock with a worker, which locks rows in another order."""
    hold = "SELECT 1 FROM webhook_deliveries WHERE event_id = %s FOR UPDATE"
    with (
        closing(open_ledger(postgresql_url)) as store,
        psycopg.connect(postgresql_url) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        _given(store, 2)
        first, second = (each.delivery.event_id for each in _claim_due(store))
        worker.execute(hold, (second,))
        at = later(5)
        replay = pool.submit(
            store.replay_deliveries, [first, second], at, lambda _: True
        )

        # With the row of the first one, both would wait for each other.
        assert eventually(lambda: _is_due(store, first, at))
        worker.execute(hold, (first,))
        worker.commit()

        assert replay.result() == [first, second]
        assert _is_due(store, second, at)


def _is_due(store: SQLStore, event_id: str, at: datetime) -> bool:
    found = store.find_delivery(event_id)
    return found is not None and found[0].due_at == at


AGO = timedelta(days=100)
BEFORE = timedelta(days=90)


def _old_events(
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
    old = _old_events(store, 3)
    (shop,) = _old_events(store, 1, "shop")
    new = _old_events(store, 2, ago=timedelta(days=1))
    accepted(store)
    (unplaced,) = set(_ids(store)) - {*old, shop, *new}
    done = _prune(store)

    assert done is not None
    assert done.count == 2
    assert set(_ids(store)) == {old[2], shop, *new, unplaced}
    assert _prune(store) == Pruned(0, 0)


def test_batches(store: SQLStore) -> None:
    """Each continues after the last one."""
    _old_events(store, 6)
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
    arrived = _old_events(store, 2, has_webhook=True)
    _delivered(store)
    (given_up,) = _old_events(store, 1, has_webhook=True)
    at = now() - AGO + timedelta(seconds=9)
    (due,) = store.claim_deliveries({"gateway": 9}, 9, at, at + timedelta(minutes=1))
    dead = DeliveryAttempt(due.delivery, DeliveryState.DEAD, at, "unreachable")
    store.record_attempts([dead], at)
    (pending,) = _old_events(store, 1, has_webhook=True)
    newest = _old_events(store, 1)
    done = _prune(store)

    assert done is not None
    assert done.count == 2
    assert set(_ids(store)) == {given_up, pending, *newest}
    kept = store._database.rows(select(webhook_deliveries.c.event_id))
    assert {row.event_id for row in kept} == {given_up, pending}
    assert not set(arrived) & set(_ids(store))


def test_a_replayed_event_is_kept_as_long_as_a_new_one(store: SQLStore) -> None:
    replayed, _ = _old_events(store, 2, has_webhook=True)
    _delivered(store)
    store.replay_deliveries([replayed], now(), lambda _: True)
    _delivered(store, timedelta(0))

    assert _prune(store) == Pruned(0, 0)
    assert replayed in _ids(store)


def test_one_process_at_a_time(postgresql_url: str) -> None:
    """Another one leaves it to the first; on SQLite a writer has the whole database."""
    store, other = open_ledger(postgresql_url), open_ledger(postgresql_url)
    _old_events(store, 2)

    def meanwhile(connection: Connection) -> None:
        assert try_to_lock_events(connection)
        assert _prune(other) is None

    store._database.transaction(meanwhile)

    assert len(_ids(store)) == 2
    store.close()
    other.close()


def test_the_database_keeps_what_is_needed(store: SQLStore) -> None:
    """No role can delete the events of the last week, or what has not arrived."""
    _old_events(store, 1, has_webhook=True)
    _old_events(store, 1, ago=timedelta(days=6), has_webhook=True)
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
    _old_events(store, 3)
    _prune(store)
    (new,) = _old_events(store, 1, ago=timedelta(0))
    page = store.events("gateway", sequence_at(now() - BEFORE), 9, now())

    assert [event.id for event, _ in page.events] == [new]
