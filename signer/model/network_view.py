"""What a worker sees of one network: the wallet's funds, its nonce, and the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from signer.config.networks import Network


LAGGING_BLOCKS = 10
"""By how many blocks a node may lag the highest head."""


@dataclass(frozen=True, slots=True)
class Funds:
    """
    What the active key's address holds of one asset.

    ``asset`` is a token's symbol or ``COIN``; ``balance`` is in base units.
    ``refunds_left`` is how many refunds of the recent average it pays, and
    ``hours_left`` how long it lasts if the next hours are like the last 24.  They are
    None while no refund was paid.
    """

    asset: str
    balance: int
    decimals: int
    refunds_left: int | None = None
    hours_left: float | None = None

    def is_low(self, network: Network) -> bool:
        """Return whether less is left than one of the bounds of *network*."""
        return is_low(self.refunds_left, self.hours_left, network)


def is_low(refunds: float | None, hours: float | None, network: Network) -> bool:
    """Return whether fewer *refunds* or *hours* are left than *network* demands."""
    few = refunds is not None and refunds < network.low_balance_refunds
    return few or (hours is not None and hours < network.low_balance_hours)


@dataclass(frozen=True, slots=True)
class NodeView:
    """
    One node: ``name`` is its position in the configuration, such as ``node-1``.

    ``lag`` is by how many blocks it lags the highest head; None if it did not answer.
    ``is_trusted`` is whether it counts towards the quorum.  ``disagrees`` is whether it
    does not because its answers were impossible, or contradicted those of the others.
    """

    name: str
    lag: int | None
    is_trusted: bool
    disagrees: bool = False

    @property
    def is_down(self) -> bool:
        """Whether it does not answer, or does not count."""
        return self.lag is None or not self.is_trusted

    @property
    def is_lagging(self) -> bool:
        """Whether it answers with a head that is older than ``LAGGING_BLOCKS``."""
        return self.lag is not None and self.lag > LAGGING_BLOCKS


@dataclass(frozen=True, slots=True)
class NetworkView:
    """
    One network, as seen at one moment.

    ``max_fee`` is the max fee of a first transaction, in wei per gas.  ``chain_nonce``
    is the address's next nonce in a block.  ``missing_nonces`` is how many nonces no
    refund has, and later ones wait for.  ``is_delegated`` is whether the address has
    code: only a delegation (EIP-7702) gives it some.  ``revoked_operators`` is how many
    revoked keys may still pay from the vault.  All are None, and ``funds`` is empty, if
    the nodes did not answer.

    ``has_quorum`` is whether enough nodes answered and agreed.  ``head_age`` is for how
    many seconds the newest block has not changed; None if no node answered.

    ``problem`` is the code of the error for which the network cannot be used, if any.
    ``at`` is when its nodes were asked, by the ledger's clock.
    """

    nodes: Sequence[NodeView]
    funds: Sequence[Funds] = ()
    max_fee: int | None = None
    chain_nonce: int | None = None
    missing_nonces: int | None = None
    is_delegated: bool | None = None
    revoked_operators: int | None = None
    has_quorum: bool = True
    head_age: float | None = None
    problem: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """
    The last look of any worker at one thing.

    ``at`` is when it began, by the ledger's clock, and ``seen`` a number that says what
    was seen.  They decide when a worker asks the nodes again, and nothing else: no MAC
    covers them.
    """

    at: datetime
    seen: int = 0
