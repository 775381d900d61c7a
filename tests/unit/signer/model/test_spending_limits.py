"""Hourly and daily spending limits (R27)."""

from datetime import UTC, datetime, timedelta

import pytest

from signer.config.networks import Token
from signer.config.tenants import Tenant
from signer.model.spending_limits import NO_LIMITS, Limits, Spent, hour_number
from tests.fixtures.scripted_chain import TOKEN
from tests.support.refunds import NETWORK


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(hourly=10), None),
        (Limits(hourly=9), "hourly_limit"),
        (Limits(daily=30), None),
        (Limits(daily=29), "daily_limit"),
        (Limits(daily_per_recipient=60), None),
        (Limits(daily_per_recipient=59), "daily_limit_per_recipient"),
        (Limits(gas_per_hour=90), None),
        (Limits(gas_per_hour=89), "gas_per_hour"),
        (Limits(9, 29, 59, 89), "hourly_limit"),
        (NO_LIMITS, None),
    ],
)
def test_a_limit_may_be_reached_and_not_exceeded(
    limits: Limits, name: str | None
) -> None:
    """The sum may equal the limit; the first exceeded limit is named."""
    spent = Spent(hour=5, day=25, recipient=55, gas=70)
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)  # An hour has its first second.
    assert hour_number(noon - timedelta(seconds=1)) == hour_number(noon) - 1

    assert limits.first_exceeded(5, 20, spent) == name


def test_limits_from_the_networks_file() -> None:
    """The file has whole tokens and units of gas; a missing limit is None."""
    token = Token(
        address=TOKEN,
        decimals=6,
        max_amount="10",
        hourly_limit="50",
        daily_limit="99.5",
    )
    changes = {"tokens": {"TUSD": token}, "gas_per_hour": 7}
    network = NETWORK.model_copy(update=changes)

    assert Limits.from_network(network, "TUSD") == Limits(
        50_000_000, 99_500_000, None, 7
    )


def test_limits_of_a_tenant() -> None:
    """They have the same units; without an entry there is the default gas only."""
    table = {
        "subjects": ["shop"],
        "networks": {
            "local": {
                "gas_per_hour": 9_000_000,
                "tokens": {"TUSD": {"daily_limit": "99.5", "hourly_limit": "50"}},
            }
        },
    }
    tenant, token = Tenant.model_validate(table), NETWORK.tokens["TUSD"]

    assert Limits.from_tenant(tenant, "local", "TUSD", token) == Limits(
        50_000_000, 99_500_000, None, 9_000_000
    )
    assert Limits.from_tenant(tenant, "local", "OTHER", token) == Limits(
        gas_per_hour=9_000_000
    )
    assert Limits.from_tenant(tenant, "other", "TUSD", token) == Limits(
        gas_per_hour=50_000_000
    )
