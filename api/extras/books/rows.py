"""What the books read of the ledger, by nonce."""

from dataclasses import dataclass

from signer.model.refund import Refund, Status
from signer.model.transaction import Kind, Transaction
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

    It has a refund, or a filler, which pays none.  ``unrecorded`` is a transaction that
    the chain had and the ledger did not.
    """

    nonce: int
    refund: Refund | None = None
    attempts: tuple[TransactionCost, ...] = ()
    unrecorded: UnrecordedTransaction | None = None
    filler: Transaction | None = None

    @property
    def row(self) -> Refund | Transaction | None:
        """The refund or the filler that has the nonce."""
        return self.refund or self.filler

    @property
    def status(self) -> Status | None:
        """The status of ``row``."""
        return None if self.row is None else Status(self.row.status)


@dataclass(frozen=True, slots=True)
class BookToken:
    """A token of the ledger's refunds."""

    address: str
    symbol: str
    decimals: int
