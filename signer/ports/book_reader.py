"""What the books read of the ledger: the rows of each nonce, page by page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from signer.model.key import Key
from signer.model.refund import Refund
from signer.model.transaction import Kind
from signer.model.wallet import UnrecordedTransaction, Wallet


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

    ``unrecorded`` is a transaction that the chain had and the ledger did not.
    """

    nonce: int
    refund: Refund | None = None
    attempts: tuple[TransactionCost, ...] = ()
    unrecorded: UnrecordedTransaction | None = None


@dataclass(frozen=True, slots=True)
class BookToken:
    """A token of the ledger's refunds."""

    address: str
    symbol: str
    decimals: int


class BookReader(Protocol):
    """
    Reads the ledger for the books; raises ``StoreUnavailableError`` if it is down.

    Each method reads a page, so that the memory does not grow with the ledger.
    """

    def keys(self) -> Sequence[Key]:
        """Return every key of the ring."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every opened wallet."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, or None if it was never opened."""

    def require_authentic(self, refund: Refund) -> None:
        """Raise ``RowNotAuthenticError`` if another program changed *refund*."""

    def logged_addresses(self) -> Sequence[str]:
        """Return the addresses of all keys that the audit log records as activated."""

    def refunded_tokens(self, chain_id: int) -> Sequence[BookToken]:
        """Return each token that a refund of the chain names."""

    def nonce_entries(
        self, chain_id: int, sender: str, first: int, limit: int
    ) -> Sequence[NonceEntry]:
        """
        Return up to *limit* nonces of a wallet from *first* on, lowest first.

        A nonce that no row has is left out.
        """

    def refunds_in_blocks(
        self,
        chain_id: int,
        sender: str,
        blocks: tuple[int, int],
        *,
        after: int,
        limit: int,
    ) -> Sequence[Refund]:
        """
        Return up to *limit* refunds of a wallet with nonces above *after*.

        They have a block between the two *blocks*, both included, lowest nonce first.
        """

    def senders_in_blocks(
        self, chain_id: int, blocks: tuple[int, int]
    ) -> Mapping[str, int]:
        """Return how many refunds have a block between both *blocks*, by sender."""

    def results_by_chain(
        self, since: datetime, until: datetime
    ) -> Mapping[int, tuple[str, int]]:
        """
        Return the network's name, and how many refunds ended in a period, by chain.

        *until* does not belong to it.
        """

    def refunds_of_chain(
        self, chain_id: int, *, after: str, limit: int
    ) -> Sequence[Refund]:
        """Return up to *limit* refunds of a chain with ids above *after*, in order."""
