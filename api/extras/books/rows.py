"""What the books read of the ledger, by nonce."""

from dataclasses import dataclass

from signer.model.refund import Refund
from signer.model.transaction import Kind
from signer.model.wallet import UnrecordedTransaction


@dataclass(frozen=True, slots=True)
class TransactionCost:
    """One transaction that was signed for a nonce, and the most that it may cost."""

    tx_hash: str
    kind: Kind
    most_fee: int


@dataclass(frozen=True, slots=True)
class NonceEntry:
    """
    All that the ledger has about one nonce of a wallet.

    A filler has no refund.  ``unrecorded`` is a transaction that the chain had and the
    ledger did not.
    """

    nonce: int
    refund: Refund | None = None
    attempts: tuple[TransactionCost, ...] = ()
    unrecorded: UnrecordedTransaction | None = None
    is_filler: bool = False


@dataclass(frozen=True, slots=True)
class BookToken:
    """A token of the ledger's refunds."""

    address: str
    symbol: str
    decimals: int
