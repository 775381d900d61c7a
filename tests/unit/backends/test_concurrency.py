"""The adaptive limit on simulated services, and the semaphore on threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.kms_retries import AdaptiveLimit, AdaptiveSemaphore
from tests.support.waiting import eventually


LOWEST = 8
HIGHEST = 64
BASE = 0.02


def _serve(
    limit: AdaptiveLimit, calls: int, capacity: float = 1e9, base: float = BASE
) -> list[int]:
    """
    Record calls of a service that is always asked as much as the limit allows.

    It serves *capacity* calls at once in *base* seconds, and further ones queue.
    """
    values = []
    for _ in range(calls):
        limit.record(base * max(1.0, limit.value / capacity), limit.value)
        values.append(limit.value)
    return values


@given(
    st.integers(1, 256),
    st.lists(
        st.tuples(st.none() | st.floats(0.001, 60), st.integers(0, 256)), max_size=400
    ),
)
def test_the_limit_stays_within_its_bounds(
    highest: int, calls: list[tuple[float | None, int]]
) -> None:
    limit = AdaptiveLimit(highest)
    for seconds, in_flight in calls:
        limit.record(seconds, in_flight)

        assert min(LOWEST, highest) <= limit.value <= highest


@settings(max_examples=25)
@given(st.floats(0.001, 2))
def test_a_service_without_queues_gets_all(base: float) -> None:
    """For each latency; within a few hundred calls."""
    limit = AdaptiveLimit(HIGHEST)

    assert _serve(limit, 600, base=base)[-1] == HIGHEST


@settings(max_examples=25)
@given(st.integers(LOWEST, 30), st.integers(0, 2_000))
def test_the_limit_settles_near_the_capacity(capacity: int, more: int) -> None:
    """It uses all of the capacity, and doubles the latency at most, once settled."""
    limit = AdaptiveLimit(HIGHEST)
    _serve(limit, 1_500 + more, capacity)

    values = _serve(limit, 500, capacity)

    assert min(values) >= capacity
    assert max(values) <= 2 * capacity + 8


def test_a_lasting_change_of_the_latency_is_learnt() -> None:
    """As after a failover to a far region; also back."""
    limit = AdaptiveLimit(HIGHEST)
    for base in (BASE, 10 * BASE, BASE):
        assert _serve(limit, 2_000, base=base)[-1] == HIGHEST


def test_a_few_slow_calls_change_nothing() -> None:
    """The 99th percentile of a service does not say that it is loaded."""
    limit = AdaptiveLimit(HIGHEST)
    _serve(limit, 600)
    for call in range(1_000):
        limit.record(2.0 if call % 20 == 0 else BASE, HIGHEST)

        assert limit.value == HIGHEST


@pytest.mark.parametrize(("every", "expected"), [(3, LOWEST), (12, HIGHEST)])
def test_failures_of_a_tenth_lower_the_limit(every: int, expected: int) -> None:
    limit = AdaptiveLimit(HIGHEST)
    _serve(limit, 600)
    for call in range(1_200):
        limit.record(None if call % every == 0 else BASE, limit.value)

    assert limit.value == expected


def test_only_failures_lower_the_limit_to_the_lowest() -> None:
    """And the next signatures raise it again."""
    limit = AdaptiveLimit(HIGHEST)
    _serve(limit, 600)
    for _ in range(600):
        limit.record(None, limit.value)

    assert limit.value == LOWEST
    assert _serve(limit, 600)[-1] == HIGHEST


def test_an_idle_limit_does_not_grow() -> None:
    """Few calls at once say nothing about many."""
    limit = AdaptiveLimit(HIGHEST)
    for _ in range(1_000):
        limit.record(BASE, 3)

    assert limit.value == LOWEST


def test_slots_admit_as_many_as_the_limit() -> None:
    slots = AdaptiveSemaphore(HIGHEST)
    admitted = [slots.acquire(0) for _ in range(LOWEST + 3)]
    slots.release(BASE)

    assert admitted == [True] * LOWEST + [False] * 3
    assert slots.acquire(0)
    assert not slots.acquire(0)


def test_waiting_calls_are_admitted_in_order() -> None:
    slots = AdaptiveSemaphore(1)
    order: list[int] = []
    assert slots.acquire(0)

    def call(number: int) -> None:
        assert slots.acquire(10)
        order.append(number)
        slots.release(BASE)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=call, args=(number,)))
        threads[-1].start()
        assert eventually(lambda: len(slots._waiting) == len(threads))
    slots.release(BASE)
    for thread in threads:
        thread.join(10)

    assert order == list(range(5))


def test_a_call_that_gave_up_keeps_no_slot() -> None:
    slots = AdaptiveSemaphore(1)
    assert slots.acquire(0)
    assert not slots.acquire(0.01)
    slots.release(None)

    assert slots.acquire(0)


def test_threads_never_exceed_the_limit() -> None:
    """And no slot is lost, whether calls sign, fail or give up."""
    slots = AdaptiveSemaphore(4)
    lock = threading.Lock()
    running: set[int] = set()
    most = 0

    def call(number: int) -> None:
        nonlocal most
        if not slots.acquire(0 if number % 5 == 0 else 10):
            return
        with lock:
            running.add(number)
            most = max(most, len(running))
        with lock:
            running.discard(number)
        slots.release(None if number % 3 == 0 else 0.001)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(2_000)))

    assert 1 <= most <= 4
    assert [slots.acquire(0) for _ in range(5)] == [True] * 4 + [False]
