"""What a tenant may have refunded: networks, tokens and the limits that apply to it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from signer.amounts import parse_units
from signer.config.networks import Network, Token
from signer.config.tenants import Tenant
from signer.model.spending_limits import Limits


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
    """Yield what *tenant* may have refunded, in the order of the configuration."""
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
