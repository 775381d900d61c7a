"""Limits on what refunds may spend per hour and day, and what a tenant may request."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from signer.amounts import parse_units
from signer.config.networks import Network, Token
from signer.config.tenants import Tenant


GAS_PER_HOUR = "gas_per_hour"
"""The name of the limit that counts gas; the others count amounts."""

_HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Spent:
    """
    What already has a nonce: amounts in base units of one token, and gas, on one chain.

    ``hour`` and ``gas`` count the current clock hour, ``day`` that hour and the 23
    before it.  ``recipient`` is the part of ``day`` that one recipient gets.
    """

    hour: int
    day: int
    recipient: int
    gas: int

    def counted(self, limit: str) -> int:
        """Return what the limit of this name has counted."""
        return {
            "hourly_limit": self.hour,
            "daily_limit": self.day,
            "daily_limit_per_recipient": self.recipient,
            GAS_PER_HOUR: self.gas,
        }[limit]


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The limits of one token, in base units, and of its chain, in gas.

    They bound the refunds of all tenants together; ``tenant`` has further limits for
    those of the refund's tenant.  None means no limit.
    """

    hourly: int | None = None
    daily: int | None = None
    daily_per_recipient: int | None = None
    gas_per_hour: int | None = None
    tenant: "Limits | None" = None

    @classmethod
    def from_network(cls, network: Network, token_name: str) -> Self:
        """Return the limits of a token that the networks file sets for all tenants."""
        token = network.tokens[token_name]
        limits = token.hourly_limit, token.daily_limit, token.daily_limit_per_recipient
        hourly, daily, daily_per_recipient = (
            None if limit is None else parse_units(limit, token.decimals)
            for limit in limits
        )
        return cls(hourly, daily, daily_per_recipient, network.gas_per_hour)

    @classmethod
    def from_tenant(cls, tenant: Tenant, network: str, name: str, token: Token) -> Self:
        limits = tenant.token_limits(network, name)
        return cls(
            limits.units("hourly_limit", token),
            limits.units("daily_limit", token),
            limits.units("daily_limit_per_recipient", token),
            tenant.gas_limit(network),
        )

    @classmethod
    def for_tenant(
        cls, tenant: Tenant, network_name: str, network: Network, token_name: str
    ) -> Self:
        token = network.tokens[token_name]
        return replace(
            cls.from_network(network, token_name),
            tenant=cls.from_tenant(tenant, network_name, token_name, token),
        )

    @classmethod
    def for_calls(cls, tenant: Tenant, network_name: str, network: Network) -> Self:
        """Return the limits of calls: of gas, and no others."""
        of_tenant = cls(gas_per_hour=tenant.gas_limit(network_name))
        return cls(gas_per_hour=network.gas_per_hour, tenant=of_tenant)

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield name and value of each limit that is set, without the tenant's."""
        for name, limit in (
            ("hourly_limit", self.hourly),
            ("daily_limit", self.daily),
            ("daily_limit_per_recipient", self.daily_per_recipient),
            (GAS_PER_HOUR, self.gas_per_hour),
        ):
            if limit is not None:
                yield name, limit

    def first_exceeded(self, amount: int, gas: int, spent: Spent) -> str | None:
        """Return the name of the first limit that *spent* plus a refund exceeds."""
        for name, limit in self.items():
            added = gas if name == GAS_PER_HOUR else amount
            if spent.counted(name) + added > limit:
                return name
        return None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Spending:
    """
    What a signed document lets leave, which counts as if it were paid at once.

    The fields are those of a refund, and *limits* those that bound it.
    """

    chain_id: int
    token: str
    token_address: str
    tenant: str
    recipient: str
    amount: int
    limits: Limits


def hour_number(moment: datetime) -> int:
    """Return how many whole hours *moment* is after 1970-01-01T00:00Z."""
    return int(moment.timestamp()) // _HOUR_SECONDS


@dataclass(frozen=True, slots=True)
class PaymentTotals:
    """
    What was reserved before one refund: by all tenants, and by its own.

    Both are of the refund's token; that of a call is coin.  ``is_first_payment`` means
    that no refund of this token to the same recipient has a nonce.

    ``first_paid_amount`` is that of the first of them that was confirmed, and
    ``first_paid_hours`` how many whole clock hours ago that was; None without one.
    """

    spent: Spent
    of_tenant: Spent
    is_first_payment: bool
    first_paid_hours: int | None = None
    first_paid_amount: int | None = None


class LimitScope(StrEnum):
    """Whose refunds a limit counts: those of all tenants, or those of one."""

    SERVICE = "service"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit on all refunds of an hour or a day, in base units or gas."""

    name: str
    scope: LimitScope
    limit: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """
    One token that a tenant may have refunded.

    The amounts bound one refund, in base units, and are the stricter ones of the
    token's and the tenant's.  A refund of more than ``approve_above`` needs an
    approval.  None means no limit.
    """

    network: str
    chain_id: int
    confirmations: int
    symbol: str
    token: Token
    min_amount: int | None
    max_amount: int
    approve_above: int | None
    bounds: Sequence[Bound]


def list_bounds(limits: Limits) -> Sequence[Bound]:
    """Return the limits of the service in *limits*, then those of the tenant."""
    bounds = [Bound(name, LimitScope.SERVICE, limit) for name, limit in limits.items()]
    of_tenant = limits.tenant or Limits()
    return (
        *bounds,
        *(Bound(name, LimitScope.TENANT, limit) for name, limit in of_tenant.items()),
    )


def list_allowances(
    networks: Mapping[str, Network], tenant: Tenant
) -> Iterator[Allowance]:
    for name, network in networks.items():
        for symbol in network.tokens:
            yield _find_allowance(name, network, symbol, tenant)


def _find_allowance(
    name: str, network: Network, symbol: str, tenant: Tenant
) -> Allowance:
    token, of_tenant = network.tokens[symbol], tenant.token_limits(name, symbol)

    def amounts(of_both: Iterable[str | None]) -> list[int]:
        return [parse_units(each, token.decimals) for each in of_both if each]

    least = amounts((token.min_amount, of_tenant.min_amount))
    most = amounts((token.max_amount, of_tenant.max_amount))
    above = amounts((token.approve_above, of_tenant.approve_above))
    limits = Limits.for_tenant(tenant, name, network, symbol)
    return Allowance(
        network=name,
        chain_id=network.chain_id,
        confirmations=network.confirmations,
        symbol=symbol,
        token=token,
        min_amount=max(least, default=None),
        max_amount=min(most),
        approve_above=min(above, default=None),
        bounds=list_bounds(limits),
    )
