"""What the core asks of the ledger about wallets, and what the chain shows of them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from signer.model.approval import ApprovalUse
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet


class WalletStore(Protocol):
    """
    The wallets that pay refunds, one for each chain and address.

    Methods raise as those of ``RefundStore``.  Rows that another program changed are
    returned as not authentic; methods that change such a wallet raise
    ``RowNotAuthenticError``.
    """

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, or None if it was never opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every opened wallet, ordered by chain and address."""

    def paused_wallets(self) -> Collection[tuple[int, str]]:
        """Return the chain id and the address of each paused wallet."""

    def open_wallet(self, wallet: Wallet) -> None:
        """
        Insert *wallet*, unless it is already open.

        It replaces a row that another program changed, whose first nonce is kept if it
        is lower.
        """

    def pause(
        self,
        wallet: Wallet,
        reason: Pause,
        at: datetime,
        high_water: int | None = None,
    ) -> None:
        """Stop assigning nonces of *wallet*; the other arguments are stored with it."""

    def resume(
        self,
        wallet: Wallet,
        at: datetime,
        foreign: Sequence[UnrecordedTransaction],
        use: ApprovalUse | None = None,
    ) -> None:
        """
        Assign nonces of *wallet* again, and accept its *foreign* transactions.

        *use* ends an approval in the same transaction.

        Raises:
            StaleStateError: Its foreign transactions are not exactly these, or the
                approval has changed.
            RowNotAuthenticError: Another program changed the wallet or one of its
                unrecorded transactions, perhaps to accept it.
        """

    def unknown_nonces(
        self, chain_id: int, sender: str, below: int, limit: int
    ) -> Sequence[int]:
        """
        Return up to *limit* nonces of an opened wallet that no row has, lowest first.

        They lie between the wallet's first nonce and *below*, which is excluded.  A row
        is a refund or an ``UnrecordedTransaction``.
        """

    def add_unrecorded(
        self, wallet: Wallet, seen: Sequence[UnrecordedTransaction]
    ) -> None:
        """
        Record final transactions that the chain has and the ledger did not.

        A nonce that is already recorded keeps its first records.
        """

    def foreign_transactions(
        self, chain_id: int, sender: str
    ) -> Sequence[UnrecordedTransaction]:
        """Return the wallet's unaccepted foreign transactions, lowest nonce first."""

    def find_unrecorded(
        self, chain_id: int, memos: Collection[bytes]
    ) -> Mapping[bytes, UnrecordedTransaction]:
        """
        Return the transactions that ended refunds with *memos*, by ``Refund.memo``.

        Any wallet may have sent them.  One that paid counts, and of several the one
        with the lowest nonce.
        """
