"""When deliveries are tried again."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from signer.webhooks.dispatcher import DELAYS, next_delay


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
