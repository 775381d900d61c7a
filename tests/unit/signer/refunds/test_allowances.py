"""What a tenant may have refunded is what the policy then admits."""

from dataclasses import replace
from datetime import UTC, datetime

from signer.config.tenants import NO_LIMITS, Tenant
from signer.errors import PolicyViolationError
from signer.model.spending_limits import (
    Bound,
    Limits,
    LimitScope,
    list_allowances,
    list_bounds,
)
from signer.refunds.payment_checks import admit
from tests.support.refunds import NETWORK, REQUEST


NOW = datetime(2026, 11, 26, tzinfo=UTC)


def _tenant(**limits: str) -> Tenant:
    networks = {"local": {"gas_per_hour": 30_000, "tokens": {"TUSD": limits}}}
    table = {"subjects": ["shop"], "networks": networks}
    return Tenant.model_validate(table)


def test_the_stricter_amounts_count() -> None:
    token = NETWORK.tokens["TUSD"].model_copy(
        update={"min_amount": "2", "max_amount": "1000", "approve_above": "600"}
    )
    network = NETWORK.model_copy(update={"tokens": {"TUSD": token}})
    strict = _tenant(min_amount="5", max_amount="500", approve_above="100")
    loose = _tenant(min_amount="1", max_amount="2000", approve_above="900")
    found = [
        next(list_allowances({"local": network}, each)) for each in (strict, loose)
    ]

    assert [each.min_amount for each in found] == [5_000_000, 2_000_000]
    assert [each.max_amount for each in found] == [500_000_000, 1_000_000_000]
    assert [each.approve_above for each in found] == [100_000_000, 600_000_000]


def test_the_policy_admits_these_amounts() -> None:
    """The smallest and the largest, and none beyond."""
    tenant = _tenant(min_amount="0.5", max_amount="20", approve_above="10")
    (found,) = list_allowances({"local": NETWORK}, tenant)

    def is_admitted(units: int) -> bool:
        request = replace(REQUEST, amount=f"{units // 10**6}.{units % 10**6:06}")
        try:
            admit(
                request,
                refund_id="rf_1",
                tenant="shop",
                idempotency_key="k",
                networks={"local": NETWORK},
                wallets=(),
                now=NOW,
                limits=tenant,
            )
        except PolicyViolationError:
            return False
        return True

    least, most = found.min_amount, found.max_amount
    assert least is not None
    assert [is_admitted(each) for each in (least - 1, least)] == [False, True]
    assert [is_admitted(each) for each in (most, most + 1)] == [True, False]


def test_bounds_of_the_service_come_first() -> None:
    limits = Limits(hourly=5, gas_per_hour=7, tenant=Limits(daily=3))

    assert list_bounds(limits) == (
        Bound("hourly_limit", LimitScope.SERVICE, 5),
        Bound("gas_per_hour", LimitScope.SERVICE, 7),
        Bound("daily_limit", LimitScope.TENANT, 3),
    )
    assert list_bounds(Limits()) == ()


def test_a_tenant_without_limits() -> None:
    (found,) = list_allowances({"local": NETWORK}, NO_LIMITS)

    assert (found.network, found.symbol, found.chain_id) == ("local", "TUSD", 31337)
    assert (found.min_amount, found.approve_above, found.bounds) == (None, None, ())
