"""The token bucket, on a timer of the test."""

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.kms_retries import TokenBucket
from tests.support.waiting import Timer


FOR_EVER = 1e9
BURST = 0.05


@pytest.fixture
def timer() -> Timer:
    return Timer()


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
