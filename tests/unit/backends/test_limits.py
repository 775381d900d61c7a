"""The adaptive limit, the circuit breaker and the token bucket, on a timer."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.circuit_breaker import RETRY_SECONDS, CircuitBreaker
from backends.kms_retries import AdaptiveLimit, AdaptiveSemaphore, TokenBucket
from tests.support.waiting import Timer, eventually


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


# The circuit breaker, on a timer of the test.

CALL_SECONDS = 5.0


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def breaker(timer: Timer) -> CircuitBreaker:
    """A breaker that a timeout has opened."""
    breaker = CircuitBreaker(CALL_SECONDS, timer)
    assert breaker.admits()
    breaker.record_timeout()
    return breaker


def _in_another_thread(question: Callable[[], bool]) -> bool:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(question()))
    thread.start()
    thread.join()
    return answers[0]


def test_calls_fail_at_once_after_a_timeout(
    breaker: CircuitBreaker, timer: Timer
) -> None:
    timer.now += RETRY_SECONDS - 0.01

    assert not breaker.admits()


def test_one_thread_tries_at_a_time(breaker: CircuitBreaker, timer: Timer) -> None:
    """It may call several times: ping a connection, and open another one."""
    timer.now += RETRY_SECONDS

    assert breaker.admits()
    assert breaker.admits()
    assert not _in_another_thread(breaker.admits)


def test_another_thread_tries_if_the_first_never_reports(
    breaker: CircuitBreaker, timer: Timer
) -> None:
    timer.now += RETRY_SECONDS
    assert breaker.admits()
    timer.now += CALL_SECONDS

    assert _in_another_thread(breaker.admits)
    assert not breaker.admits()


def test_a_further_timeout_begins_another_pause(
    breaker: CircuitBreaker, timer: Timer
) -> None:
    timer.now += RETRY_SECONDS
    assert breaker.admits()
    breaker.record_timeout()

    assert not breaker.admits()
    timer.now += RETRY_SECONDS
    assert breaker.admits()


def test_an_answer_admits_all_threads(breaker: CircuitBreaker) -> None:
    """Also a late one, of a call that began before the timeout."""
    breaker.record_answer()

    assert breaker.admits()
    assert _in_another_thread(breaker.admits)


# The token bucket, on a timer of the test.

FOR_EVER = 1e9

BURST = 0.05


@given(
    rate=st.integers(1, 2_000),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_turns_keep_the_rate(rate: int, gaps: list[float]) -> None:
    """In every window there are at most the rate's turns, a burst, and one."""
    timer = Timer()
    limit = TokenBucket(rate, timer)
    turns = []
    for gap in gaps:
        timer.now += gap
        wait = limit.reserve(FOR_EVER)
        assert wait is not None
        turns.append(timer.now + wait)

    assert all(first <= second + 1e-6 for first, second in pairwise(turns))
    for start, first in enumerate(turns):
        for end, last in enumerate(turns[start:], start):
            allowed = (last - first + BURST) * rate + 1
            assert end - start + 1 <= allowed + 1e-3


@given(rate=st.integers(1, 2_000), asked=st.integers(1, 200))
def test_no_turn_is_wasted(rate: int, asked: int) -> None:
    """Callers that come at once get all turns of the time that they take."""
    limit = TokenBucket(rate, Timer())
    last = [limit.reserve(FOR_EVER) for _ in range(asked)][-1]

    assert last == pytest.approx((asked - 1) / rate)


def test_a_turn_that_is_too_late_is_not_reserved(timer: Timer) -> None:
    """The queue is bounded, and a refused caller delays no other."""
    limit = TokenBucket(10, timer)
    waits = [limit.reserve(0.25) for _ in range(5)]
    timer.now += 0.1

    assert waits[:3] == pytest.approx([0.0, 0.1, 0.2])
    assert waits[3:] == [None, None]
    assert limit.reserve(0.25) == pytest.approx(0.2)


def test_unused_turns_expire(timer: Timer) -> None:
    limit = TokenBucket(100, timer)
    timer.now += 3600

    waits = [limit.reserve(FOR_EVER) for _ in range(13)]

    assert waits == pytest.approx([0.0] * 6 + [0.01 * n for n in range(1, 8)], abs=1e-9)


@pytest.mark.parametrize(
    ("throttled", "rate"), [(0, 100), (2, 80), (4, 60), (7, 50), (10, 50)]
)
def test_the_throttled_share_lowers_the_rate(
    timer: Timer, throttled: int, rate: int
) -> None:
    """Of the answers of a tenth of a second, and by a half at most."""
    limit = TokenBucket(100, timer)
    for answer in range(10):
        timer.now += 0.0101
        limit.record(is_throttled=answer < throttled)

    waits = [limit.reserve(FOR_EVER) for _ in range(101)]

    assert waits[-1] == pytest.approx(100 / rate - 0.05, abs=1e-3)


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_a_fifth_remains_and_recovers(gaps: list[float]) -> None:
    """After 16 s at most."""
    timer = Timer()
    limit = TokenBucket(100, timer)
    for gap in gaps:
        timer.now += gap
        limit.record(is_throttled=True)
        assert 20 <= limit._rate <= 100
    timer.now += 16.1

    waits = [limit.reserve(FOR_EVER) for _ in range(100)]

    assert waits[-1] == pytest.approx(0.94, abs=1e-6)


@settings(max_examples=8)
@given(quota=st.integers(250, 950), latency=st.floats(0, 0.3))
def test_an_unknown_quota_is_found(quota: int, latency: float) -> None:
    """As if others used the rest: nearly all is used, and little throttled."""
    timer = Timer()
    began = timer.now
    limit = TokenBucket(950, timer)
    tokens, filled, signed, throttled = 0.0, timer.now, 0, 0
    answers: deque[tuple[float, bool]] = deque()
    while timer.now < began + 30:
        wait = limit.reserve(FOR_EVER)
        assert wait is not None
        timer.now += wait
        while answers and answers[0][0] <= timer.now:
            limit.record(is_throttled=answers.popleft()[1])
        tokens = min(quota / 4, tokens + (timer.now - filled) * quota)
        filled = timer.now
        is_throttled = tokens < 1
        answers.append((timer.now + latency, is_throttled))
        tokens -= not is_throttled
        if timer.now > began + 10:
            signed += not is_throttled
            throttled += is_throttled

    assert signed >= 0.85 * quota * 20
    assert throttled <= 0.1 * signed


def test_zero_is_no_limit(timer: Timer) -> None:
    limit = TokenBucket(0, timer)

    assert {limit.reserve(0.0) for _ in range(1000)} == {0.0}
