"""The deliveries of events to webhooks, on every store."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime

import psycopg

from backends.sql import SQLStore
from signer.model.event import NOT_AUTHENTIC, DeliveryState
from signer.model.refund import Refund, Status
from signer.ports.event_store import DeliveryAttempt, DeliveryFilter, DueDelivery
from tests.fixtures.ledger import accepted, forge, later, moved, now
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


FREE = {"gateway": 9}


def _given(store: SQLStore, count: int = 1, tenant: str = "gateway") -> list[Refund]:
    """Return refunds with two events each, which have deliveries."""
    refunds = [
        moved(store, accepted(store, tenant=tenant), Status.CANCELLED)
        for _ in range(count)
    ]
    store.sequence_events(100, now(), lambda _: True)
    return refunds


def _claim(
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
    (first,) = _claim(store)
    assert _claim(store) == []
    _finish(store, first)
    (second,) = _claim(store)
    _finish(store, second)

    assert first.event is not None
    assert second.event is not None
    assert (first.event.status, second.event.status) == (
        Status.QUEUED,
        Status.CANCELLED,
    )
    assert first.refund is not None
    assert first.refund.id == refund.id
    assert _claim(store) == []
    assert _states(store) == [("delivered", 1, None)] * 2


def test_refunds_do_not_wait_for_each_other(store: SQLStore) -> None:
    _given(store, 3)
    claimed = _claim(store)

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
    (first,) = _claim(store)
    _fail(store, first, later(30))
    moved(store, failing, Status.CANCELLED)
    _given(store)
    (other,) = _claim(store)
    later_ones = _claim(store, later(31))

    assert other.delivery.refund_id != failing.id
    assert [each.delivery.event_id for each in later_ones] == [first.delivery.event_id]
    assert later_ones[0].delivery.attempts == 1
    assert later_ones[0].delivery.problem == "status-500"


def test_a_claim_that_expired(store: SQLStore) -> None:
    """Another process delivers, and the late outcome of the first one is dropped."""
    _given(store)
    (first,) = _claim(store)
    (again,) = _claim(store, later(61))
    _finish(store, again)
    _fail(store, first, later(30))

    assert first.delivery.event_id == again.delivery.event_id
    assert _states(store)[0] == ("delivered", 1, None)


def test_a_dead_delivery_frees_its_refund(store: SQLStore) -> None:
    _given(store)
    (first,) = _claim(store)
    dead = DeliveryAttempt(first.delivery, DeliveryState.DEAD, now(), "unreachable")
    store.record_attempts([dead], now())
    (second,) = _claim(store)

    assert second.delivery.event_id != first.delivery.event_id
    given_up = store.deliveries(9, DeliveryFilter(state=DeliveryState.DEAD))
    assert [row.event_id for row, _ in given_up] == [first.delivery.event_id]


def test_a_replay(store: SQLStore) -> None:
    """An event is sent again, or for the first time; another tenant's id has none."""
    _given(store)
    (first,) = _claim(store)
    _finish(store, first)
    accepted(store)
    store.sequence_events(9, now(), lambda _: False)
    new = store.events("gateway", 0, 9, now()).events[-1][0].id
    given = [first.delivery.event_id, "evt_none", new, new, "\0"]

    assert store.replay_deliveries(given, now(), lambda _: True) == [given[0], new]
    assert store.replay_deliveries([new], now(), lambda _: False) == []
    claimed = {each.delivery.event_id for each in _claim(store)}
    assert claimed == {given[0], new}


def _give_up(store: SQLStore, problem: str = "unreachable") -> str:
    """Give up a delivery that is due, and return its event's id."""
    due, *_ = _claim(store, limit=1)
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
    first, second = _claim(store)
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
    (due,) = _claim(store)

    assert due.event is None


def test_no_deliveries(store: SQLStore) -> None:
    store.record_attempts([], now())

    assert store.webhook_backlog() == ()
    assert _claim(store) == []
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
        first, second = (each.delivery.event_id for each in _claim(store))
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
