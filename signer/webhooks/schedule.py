"""When a delivery that failed is tried again."""

from collections.abc import Callable, Sequence
from datetime import timedelta


DELAYS: Sequence[float] = (
    *(5.0, 15.0, 120.0, 600.0, 1800.0),
    *(3600.0 * hours for hours in (1, 2, 5, 10, 14, 18, 20)),
)
"""Seconds after each failed attempt; together just under three days."""

_JITTER = 0.2


def next_delay(
    attempts: int, draw: Callable[[], float], delays: Sequence[float] = DELAYS
) -> timedelta | None:
    """
    Return how long to wait after the failure number *attempts*; None to give up.

    *draw* returns a random number from 0 to 1.  The delay differs from that of the
    schedule by up to a fifth, so that many deliveries that failed together spread.
    """
    if attempts > len(delays):
        return None
    factor = 1 + _JITTER * (2 * draw() - 1)
    return timedelta(seconds=delays[attempts - 1] * factor)
