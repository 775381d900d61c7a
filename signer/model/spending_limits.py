"""Limits on the value and the gas that refunds may spend per hour and per day."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
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
        """Return the limits of *tenant* for *token*, which *network* has as *name*."""
        limits = tenant.token_limits(network, name)
        return cls(
            limits.units("hourly_limit", token),
            limits.units("daily_limit", token),
            limits.units("daily_limit_per_recipient", token),
            tenant.network_limits(network).gas_per_hour,
        )

    @classmethod
    def for_tenant(
        cls, tenant: Tenant, network_name: str, network: Network, token_name: str
    ) -> Self:
        """Return the limits of a token, with those of *tenant*."""
        token = network.tokens[token_name]
        return replace(
            cls.from_network(network, token_name),
            tenant=cls.from_tenant(tenant, network_name, token_name, token),
        )

    @classmethod
    def for_calls(cls, tenant: Tenant, network_name: str, network: Network) -> Self:
        """Return the limits of calls: of gas, and no others."""
        of_tenant = cls(gas_per_hour=tenant.network_limits(network_name).gas_per_hour)
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
