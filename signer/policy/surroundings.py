"""What a path knows beside the bytes: who asks, which network, which keys are ours."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from signer.amounts import parse_units
from signer.chain.fees import GWEI
from signer.config.networks import PRICE_DECIMALS, Network
from signer.config.tenants import NO_LIMITS, Tenant
from signer.model.payment_totals import PaymentTotals
from signer.policy.facts import Caller


@dataclass(frozen=True, slots=True)
class KnownToken:
    """
    A configured token; amounts are in base units.

    ``reference_price`` is in units of ``10**-PRICE_DECIMALS`` for a whole token.
    """

    symbol: str
    decimals: int
    max_amount: int
    min_amount: int | None
    max_gas: int
    reference_price: int | None = None
    approve_above: int | None = None


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    """
    A configured network, in the form in which transactions are compared with it.

    ``max_fee_per_gas`` is in wei, and ``tokens`` are by their address in lower case.
    """

    name: str
    chain_id: int
    max_fee_per_gas: int
    tokens: Mapping[str, KnownToken]

    @classmethod
    def of(cls, name: str, network: Network) -> Self:
        """Return *network* of the networks file, which is called *name* there."""
        tokens = {
            token.address.lower(): KnownToken(
                symbol,
                token.decimals,
                parse_units(token.max_amount, token.decimals),
                _parse(token.min_amount, token.decimals),
                token.max_gas,
                _parse(token.reference_price, PRICE_DECIMALS),
                _parse(token.approve_above, token.decimals),
            )
            for symbol, token in network.tokens.items()
        }
        return cls(name, network.chain_id, network.max_fee_per_gas_gwei * GWEI, tokens)


def _parse(amount: str | None, decimals: int) -> int | None:
    return None if amount is None else parse_units(amount, decimals)


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The addresses of the service's keys, in lower case."""

    addresses: frozenset[str] = frozenset()
    active: str | None = None

    @classmethod
    def of(cls, addresses: Iterable[str], active: str | None) -> Self:
        """Return *addresses*, of which *active* signs new refunds."""
        lower = frozenset(address.lower() for address in addresses)
        return cls(lower, None if active is None else active.lower())


NO_KEYS = OwnKeys()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What a path knows about a signature, beside the bytes.

    *sender* is the address that signs.  *network* is the one that the path means: the
    chain id of the bytes must be its own.  It is None without one, or if the chain is
    not configured.  *networks* are those on which typed data is valid, which are all if
    it names no chain.  *limits* are those of the caller's tenant, and *denied* the
    addresses of the deny list, in lower case.  *totals* are None if nothing is counted.

    *is_service_wallet* means that the service pays refunds from *sender*, and that the
    path is not one of the service.
    """

    caller: Caller
    sender: str
    at: datetime
    network: KnownNetwork | None = None
    own: OwnKeys = NO_KEYS
    limits: Tenant = NO_LIMITS
    totals: PaymentTotals | None = None
    denied: Collection[str] = ()
    is_service_wallet: bool = False
    networks: Collection[KnownNetwork] = ()
