"""How much may leave in an hour and in a day (R27)."""

from datetime import UTC, datetime, timedelta

import pytest

from signer.config.networks import Token
from signer.model.spending_limits import NO_LIMITS, Limits, Spent, hour_of
from tests.fixtures.scripted_chain import TOKEN


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(hourly=10), None),
        (Limits(hourly=9), "hourly_limit"),
        (Limits(daily=30), None),
        (Limits(daily=29), "daily_limit"),
        (Limits(daily_per_recipient=60), None),
        (Limits(daily_per_recipient=59), "daily_limit_per_recipient"),
        (Limits(9, 29, 59), "hourly_limit"),
        (NO_LIMITS, None),
    ],
)
def test_a_limit_may_be_reached_and_not_passed(
    limits: Limits, name: str | None
) -> None:
    """What was spent and the amount may be the limit itself; the first is named."""
    assert limits.reached(5, Spent(hour=5, day=25, recipient=55)) == name


def test_limits_are_whole_tokens_in_the_file() -> None:
    """They become base units, and what is not there is no limit."""
    token = Token(
        address=TOKEN,
        decimals=6,
        max_amount="10",
        hourly_limit="50",
        daily_limit="99.5",
    )

    assert Limits.of(token) == Limits(50_000_000, 99_500_000, None)


def test_hours_are_numbered() -> None:
    """An hour begins with its first second, and ends before the next one's."""
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)

    assert hour_of(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert hour_of(noon) - hour_of(noon - timedelta(seconds=1)) == 1
    assert hour_of(noon) == hour_of(noon + timedelta(minutes=59, seconds=59))
