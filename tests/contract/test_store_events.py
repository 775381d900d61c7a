"""The events of refunds, in one order, on every store."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from backends.sql import SQLStore
from backends.sql.tables import events
from signer.errors import StoreError
from signer.model.event import Event
from signer.model.refund import OPERATOR, Refund, Status
from signer.ports.event_store import EventStore
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
