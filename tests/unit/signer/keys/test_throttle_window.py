"""The share of calls that the device rejected in the last minute."""

import pytest

from signer.keys.signing_alarm import WINDOW_SECONDS, ThrottleWindow


@pytest.mark.parametrize(
    ("calls", "share"),
    [
        ([], 0.0),
        ([(100, 0)], 0.0),
        ([(4, 4)], 0.0),
        ([(5, 5)], 1.0),
        ([(3, 2), (7, 3), (10, 0)], 0.25),
    ],
)
def test_the_share_is_that_of_all_calls(
    calls: list[tuple[int, int]], share: float
) -> None:
    """A few rejected calls are no trend."""
    window = ThrottleWindow(lambda: 0.0)
    for attempts, throttled in calls:
        window.add(attempts, throttled)

    assert window.share == share


def test_old_calls_are_forgotten() -> None:
    now = [0.0]
    window = ThrottleWindow(lambda: now[0])
    window.add(10, 10)
    now[0] = WINDOW_SECONDS
    window.add(10, 0)

    assert window.share == 0.5
    now[0] += 1
    assert window.share == 0.0
    window.add(5, 5)
    assert window.share == pytest.approx(1 / 3)
