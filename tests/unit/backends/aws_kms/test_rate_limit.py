"""The token bucket, on a timer of the test."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.aws_kms.rate_limit import RateLimit


FOR_EVER = 1e9
BURST = 0.1


class _Timer:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timer() -> _Timer:
    return _Timer()


@given(
    rate=st.integers(1, 2_000),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_turns_keep_the_rate(rate: int, gaps: list[float]) -> None:
    """In every window there are at most the rate's turns, a burst, and one."""
    timer = _Timer()
    limit = RateLimit(rate, timer)
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
    limit = RateLimit(rate, _Timer())
    last = [limit.reserve(FOR_EVER) for _ in range(asked)][-1]

    assert last == pytest.approx((asked - 1) / rate)


def test_a_turn_that_is_too_late_is_not_reserved(timer: _Timer) -> None:
    """The queue is bounded, and a refused caller delays no other."""
    limit = RateLimit(10, timer)
    waits = [limit.reserve(0.25) for _ in range(5)]
    timer.now += 0.1

    assert waits[:3] == pytest.approx([0.0, 0.1, 0.2])
    assert waits[3:] == [None, None]
    assert limit.reserve(0.25) == pytest.approx(0.2)


def test_unused_turns_expire(timer: _Timer) -> None:
    limit = RateLimit(100, timer)
    timer.now += 3600

    waits = [limit.reserve(FOR_EVER) for _ in range(13)]

    assert waits == pytest.approx([0.0] * 11 + [0.01, 0.02], abs=1e-9)


def test_zero_is_no_limit(timer: _Timer) -> None:
    limit = RateLimit(0, timer)

    assert {limit.reserve(0.0) for _ in range(1000)} == {0.0}
