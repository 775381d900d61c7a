"""The dispatcher sequences events, and delivers them at least once and in order."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.config.tenants import EventType
from signer.errors import StoreUnavailableError
from signer.model.event import DeliveryState
from signer.model.refund import Refund, Status
from signer.ports.clock import utc_now
from signer.webhooks.dispatcher import DELAYS, next_delay
from tests.fixtures.ledger import accepted, forge, moved
from tests.support.refunds import FakeClock, altered
from tests.support.waiting import Timer, eventually
from tests.support.webhooks import (
    Receiver,
    count,
    dispatcher,
    endpoint,
    work_until,
)


def _cancelled(store: SQLStore, tenant: str = "gateway") -> Refund:
    """Return a refund with two events."""
    return moved(store, accepted(store, tenant=tenant), Status.CANCELLED)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that starts now, since receivers compare it with theirs."""
    clock = FakeClock()
    clock.now = utc_now()
    return clock


def test_events_are_delivered_in_order(sqlite_store: SQLStore) -> None:
    """Those of tenants without a webhook have an order too, and no deliveries."""
    refunds = [_cancelled(sqlite_store) for _ in range(3)]
    _cancelled(sqlite_store, "shop")
    receiver = Receiver()
    working = dispatcher(sqlite_store, receiver, batch=2)
    work_until(working, lambda: count(sqlite_store, DeliveryState.DELIVERED) == 6)

    assert len(sqlite_store.events("shop", 0, 9, utc_now()).events) == 2
    assert len(receiver.messages) == 6
    for refund in refunds:
        found = [m for m in receiver.messages if m["data"]["id"] == refund.id]
        assert [m["type"] for m in found] == ["refund.accepted", "refund.cancelled"]
        assert [m["data"]["status"] for m in found] == ["queued", "cancelled"]
        assert found[0]["sequence"] < found[1]["sequence"]


def test_only_the_wanted_types(sqlite_store: SQLStore) -> None:
    refund = _cancelled(sqlite_store)
    receiver = Receiver()
    wanted = endpoint(events=("refund.cancelled",))
    working = dispatcher(sqlite_store, receiver, {"gateway": wanted})
    work_until(working, lambda: count(sqlite_store, DeliveryState.DELIVERED))

    assert [(m["type"], m["data"]["id"]) for m in receiver.messages] == [
        (EventType.CANCELLED, refund.id)
    ]
    assert count(sqlite_store, DeliveryState.PENDING) == 0


def test_a_failed_delivery_is_repeated(
    sqlite_store: SQLStore, clock: FakeClock
) -> None:
    """With the same id, when its delay is over; the rest of the refund waits."""
    _cancelled(sqlite_store)
    answers = ["status-500", None, None]
    receiver = Receiver(lambda _: answers.pop(0))
    working = dispatcher(sqlite_store, receiver, clock=clock)
    with capture_logs() as logs:
        work_until(working, lambda: len(logs) == 1)
        working.work()
        assert len(receiver.messages) == 1
        clock.advance(seconds=6)
        work_until(working, lambda: count(sqlite_store, DeliveryState.DELIVERED) == 2)

    ids = [message["id"] for message in receiver.messages]
    assert ids[0] == ids[1] != ids[2]
    assert [(each["event"], each.get("problem")) for each in logs] == [
        ("webhook-refused", "status-500"),
        ("webhook-delivered", None),
        ("webhook-delivered", None),
    ]


def test_a_delivery_is_given_up(sqlite_store: SQLStore, clock: FakeClock) -> None:
    """After the last delay; the alert sounds from the third failure on."""
    accepted(sqlite_store)

    def respond(_: str) -> str:
        if not receiver.messages[1:]:
            raise ZeroDivisionError  # A bug is a failure, which is logged by its type.
        return "unreachable"

    receiver = Receiver(respond)
    working = dispatcher(
        sqlite_store, receiver, clock=clock, delays=(1.0, 1.0, 1.0), timer=Timer()
    )
    with capture_logs() as logs:
        for attempts in range(1, 5):
            work_until(working, lambda n=attempts: _attempts(sqlite_store) == n)  # type: ignore[misc]
            clock.advance(seconds=2)
        working.work()

    assert count(sqlite_store, DeliveryState.DEAD) == 1
    assert logs[0]["problem"] == "ZeroDivisionError"
    events = [each["event"] for each in logs]
    assert events == [
        *("webhook-refused", "webhook-refused", "webhook-refused", "alert"),
        "webhook-given-up",
    ]
    (alert,) = (each for each in logs if each["event"] == "alert")
    assert (alert["alert"], alert["tenant"], alert["problem"]) == (
        "webhook-failing",
        "gateway",
        "unreachable",
    )


def _attempts(store: SQLStore) -> int:
    return max(delivery.attempts for delivery, _ in store.deliveries(9))


def test_a_slow_receiver_delays_no_other(sqlite_store: SQLStore) -> None:
    """It has four requests at a time, and the others have their own."""
    for _ in range(9):
        accepted(sqlite_store)
    released = threading.Event()
    slow, fast = "https://slow.example/", "https://fast.example/"

    def respond(url: str) -> str | None:
        if url == slow:
            released.wait(10)
        return None

    receiver = Receiver(respond)
    endpoints = {"gateway": endpoint(slow), "shop": endpoint(fast)}
    working = dispatcher(sqlite_store, receiver, endpoints)
    work_until(working, lambda: len(receiver.by_url[slow]) == 4)
    accepted(sqlite_store, tenant="shop")
    work_until(working, lambda: receiver.by_url[fast])
    working.work()

    assert len(receiver.by_url[slow]) == 4
    released.set()
    work_until(working, lambda: count(sqlite_store, DeliveryState.DELIVERED) == 10)
    assert receiver.most <= 5


def test_a_receiver_that_is_down_is_asked_once_in_a_while(
    sqlite_store: SQLStore, clock: FakeClock
) -> None:
    """After five failures it gets one request, and then none until its pause ends."""
    for _ in range(30):
        accepted(sqlite_store)
    down = [True]
    receiver = Receiver(lambda _: "unreachable" if down[0] else None)
    timer = Timer()
    working = dispatcher(sqlite_store, receiver, clock=clock, timer=timer)
    work_until(working, lambda: _failed(sqlite_store) >= 5)
    asked = len(receiver.messages)
    for _ in range(3):
        working.work()
    assert asked == len(receiver.messages) <= 8

    timer.now += 61
    work_until(working, lambda: _failed(sqlite_store) == asked + 1)
    working.work()
    assert len(receiver.messages) == asked + 1

    down[0] = False
    timer.now += 61
    clock.advance(seconds=120)
    work_until(working, lambda: count(sqlite_store, DeliveryState.DELIVERED) == 30)

    down[0] = True  # The first failure after a success is no long one.
    accepted(sqlite_store)
    with capture_logs() as logs:
        work_until(working, lambda: len(logs) > 0)
    assert [each["event"] for each in logs] == ["webhook-refused"]


def _failed(store: SQLStore) -> int:
    return sum(delivery.attempts > 0 for delivery, _ in store.deliveries(99))


def test_an_event_of_another_program(sqlite_store: SQLStore) -> None:
    """It is not delivered, and an alert sounds."""
    accepted(sqlite_store)
    forge(
        sqlite_store,
        "INSERT INTO events (id, tenant, refund_id, version, status, at)"
        " SELECT 'evt_forged', tenant, refund_id, 9, 'confirmed', at FROM events",
    )
    receiver = Receiver()
    with capture_logs() as logs:
        working = dispatcher(sqlite_store, receiver)
        work_until(working, lambda: count(sqlite_store, DeliveryState.DELIVERED))

    assert [m["type"] for m in receiver.messages] == ["refund.accepted"]
    (alert,) = (each for each in logs if each["event"] == "alert")
    assert (alert["alert"], alert["subject"]) == ("row-not-authentic", "events")
    assert "evt_forged" in alert["problem"]


def test_a_delivery_of_another_program(sqlite_store: SQLStore) -> None:
    """One that names another tenant than its event is given up; one alert sounds."""
    for _ in range(2):
        accepted(sqlite_store, tenant="shop")
    receiver = Receiver()
    endpoints = {"gateway": endpoint(), "shop": endpoint()}
    sqlite_store.sequence_events(9, utc_now(), lambda _: True)
    forge(sqlite_store, "UPDATE webhook_deliveries SET tenant = 'gateway'")
    working = dispatcher(sqlite_store, receiver, endpoints)
    with capture_logs() as logs:
        work_until(working, lambda: count(sqlite_store, DeliveryState.DEAD) == 2)
        working.work()

    assert receiver.messages == []
    assert [each["alert"] for each in logs] == ["row-not-authentic"]


def test_a_claim_that_expired_is_not_sent(sqlite_store: SQLStore) -> None:
    """Another process may have sent the event, and later ones, meanwhile."""
    accepted(sqlite_store)
    timer = Timer()
    receiver = Receiver()
    working = dispatcher(
        sqlite_store, receiver, timer=timer, claim=timedelta(seconds=-1)
    )
    with capture_logs() as logs:
        work_until(working, lambda: logs)

    assert receiver.messages == []
    assert logs[0]["problem"] == "claim-expired"


def test_no_thread(sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system has no thread for a request, it is repeated later."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError

    accepted(sqlite_store)
    working = dispatcher(sqlite_store, Receiver())
    working._sequence()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with capture_logs() as logs:
        working._start_requests()
        monkeypatch.undo()
        working.work()

    assert logs[0]["problem"] == "no-thread"


def test_outcomes_survive_an_outage(sqlite_store: SQLStore) -> None:
    """What a request has led to is stored when the database answers again."""
    for _ in range(3):
        accepted(sqlite_store)
    receiver = Receiver()
    errors = [StoreUnavailableError("down"), ValueError("bug")]

    def record(*given: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return sqlite_store.record_attempts(*given)

    failing = altered(sqlite_store, record_attempts=record)
    working = dispatcher(failing, receiver)
    with capture_logs() as logs:
        working.run(
            lambda: count(sqlite_store, DeliveryState.DELIVERED) == 3 or len(logs) > 20
        )

    assert len(receiver.messages) == 3
    failed = [each for each in logs if each["event"] == "webhooks-failed"]
    assert [each["log_level"] for each in failed] == ["warning", "error"]


def test_a_round_without_news_reads_nothing(sqlite_store: SQLStore) -> None:
    """Without webhooks, it looks again when something is written, or after a while."""
    working = dispatcher(sqlite_store, Receiver(), {})
    worked = list[int]()
    work = working.work

    def counted() -> None:
        worked.append(1)
        work()

    working.work = counted  # type: ignore[method-assign]  # It is counted.
    stops = iter([False] * 4 + [True])
    working.run(lambda: next(stops, True))

    assert 1 <= len(worked) < 4


def test_another_process_sequences(postgresql_url: str) -> None:
    """Then this one leaves it to the other, and delivers."""
    from tests.support.ledgers import open_ledger  # noqa: PLC0415

    store, other = open_ledger(postgresql_url), open_ledger(postgresql_url)
    accepted(store)
    working = dispatcher(store, Receiver(), {})

    def meanwhile(_: object) -> bool:
        working.work()
        assert store.events("gateway", 0, 9, utc_now()).events == []
        return False

    other.sequence_events(9, utc_now(), meanwhile)
    assert eventually(lambda: store.events("gateway", 0, 9, utc_now()).events)
    store.close()
    other.close()


def test_the_schedule_lasts_three_days() -> None:
    """The first delays are seconds, and together they are just under three days."""
    delays = [next_delay(n, lambda: 0.5) for n in range(1, len(DELAYS) + 1)]
    total = sum((each for each in delays if each), timedelta())

    assert delays[0] == timedelta(seconds=5)
    assert timedelta(hours=70) < total < timedelta(hours=72)
    assert list(DELAYS) == sorted(DELAYS)
    assert next_delay(len(DELAYS) + 1, lambda: 0.5) is None


@given(st.integers(1, len(DELAYS)), st.floats(0, 1))
def test_delays_differ_by_up_to_a_fifth(attempts: int, drawn: float) -> None:
    """Deliveries that failed together spread."""
    delay = next_delay(attempts, lambda: drawn)

    assert delay is not None
    factor = delay.total_seconds() / DELAYS[attempts - 1]
    assert 0.799 < factor < 1.201
