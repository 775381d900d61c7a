"""What the core asks of the ledger for the sake of refunds, and of their wallets."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from signer.model.audit_record import Record
from signer.model.refund import (
    InFlight,
    Move,
    Page,
    Refund,
    SignedTransaction,
    Status,
)
from signer.model.spending_limits import NO_LIMITS, Limits
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet


class Store(Protocol):
    """
    The ledger of refunds.  Every method is one transaction.

    Any number of processes may share it: the constraints of the schema, and the
    version that every change compares, decide who was first.
    All raise ``StoreUnavailableError`` when the database does not answer.
    """

    def find(self, client: str, idempotency_key: str) -> Refund | None:
        """Return the refund that this client's key made, if it made one."""

    def accept(self, refund: Refund) -> tuple[Refund, bool]:
        """
        Insert a queued refund, or find the one that this client's key made.

        Returns:
            The stored refund, and whether this call created it.

        Raises:
            IdempotencyMismatchError: The key was used with another fingerprint.
            ConflictError: Another key already asked for the same reference.
        """

    def get(self, refund_id: str) -> Refund | None:
        """Return one refund."""

    def list(
        self,
        client: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Return a client's refunds, newest first, from behind *cursor*."""

    def claim(self, now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        """
        Take up refunds that are due, those first that wait longest.

        Until *until* nobody else does.  A claim is a change like any other: whoever
        had the refund before and wakes up late finds its version gone.  What is due
        much later than any claim or delay lasts was dated by a clock that was wrong,
        and counts as due.
        """

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """
        Return refunds that were sent and are not final, oldest first.

        *after* is the id of the last one of the previous batch.
        """

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Refund]:
        """Return open refunds of a wallet with nonces below *nonce*, lowest first."""

    def reserve(
        self,
        refund: Refund,
        *,
        sender: str,
        key_id: str,
        gas_limit: int,
        counted: int,
        at: datetime,
        limits: Limits = NO_LIMITS,
        intent: Record | None = None,
    ) -> Refund:
        """
        Give a queued refund its nonce for life, in one transaction.

        The nonce is one past the highest that any row holds for this chain and sender.
        *counted* is what the chain counts.  *limits* bound what all refunds of its
        token together may pay, whoever reserves at the same time.  *intent* is written
        with it, and the refund that is returned is ``intended`` then.

        Raises:
            KeyRotatedError: *sender* is not the active key's any more, or that is not
                in *key_id* any more.  For a sweep, whose sender is a former key's: its
                recipient is not the active key's any more.
            LimitReachedError: It would pay too much.
            StaleStateError: The refund is not as *refund* says any more, or a sighting
                has paid it; its wallet is paused or not opened; or *counted* is ahead
                of the ledger.
        """

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
        outcome: Record | None = None,
    ) -> None:
        """
        Replace *before* by *after*, and record *transaction*, or do nothing.

        *outcome* is what the audit says of the transaction's signature.

        Raises:
            StaleStateError: The stored version is not that of *before*.
        """

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return everything that was ever signed for a refund, first one first."""

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the moves of a refund, first one first."""

    def answer(self, refund_id: str) -> str | None:
        """Return what the request that made this refund was answered, if it was."""

    def remember_answer(self, refund_id: str, body: str, at: datetime) -> str:
        """Keep *body* as that answer, and return it; or the one that was first."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, if it was opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every wallet that was opened, by chain and address."""

    def open_wallet(self, wallet: Wallet) -> None:
        """Begin to keep the nonces of *wallet*, unless somebody did before."""

    def pause(self, wallet: Wallet, reason: Pause, at: datetime) -> None:
        """
        Give out no more nonces of *wallet*.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def sight(self, wallet: Wallet, seen: Sequence[UnrecordedTransaction]) -> None:
        """
        Write down what the chain had and the ledger did not.

        What was sighted before stays as it was.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def unheld(
        self, chain_id: int, sender: str, below: int, limit: int
    ) -> Sequence[int]:
        """
        Return nonces of an opened wallet that no refund and no sighting has.

        From its first one on, and *below* that one: *limit* of them, lowest first.
        """

    def foreign(self, chain_id: int, sender: str) -> Sequence[UnrecordedTransaction]:
        """Return the foreign sightings that nobody accepted yet, lowest nonce first."""

    def resume(self, wallet: Wallet, at: datetime) -> None:
        """
        Give out nonces of *wallet* again, and accept its foreign sightings.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def stop(self, chain_id: int, at: datetime) -> bool:
        """
        Give out no more nonces on a chain, whatever its wallets; say if it was going.

        Once this returns, no reservation is under way either.
        """

    def stopped(self, chain_id: int) -> datetime | None:
        """Return since when a chain is stopped."""

    def go_on(self, chain_id: int) -> bool:
        """Let a chain that was stopped go on; say whether it was."""

    def sighting(self, chain_id: int, mark: bytes) -> UnrecordedTransaction | None:
        """Return a sighting, of any wallet, that paid the refund with *mark*."""

    def adopt(self, before: Refund, after: Refund) -> None:
        """
        Replace a queued refund by the mined one that a sighting made of it.

        Raises:
            StaleStateError: The stored version is not that of *before*, or the nonce
                is another refund's.
        """

    def check(self) -> None:
        """Do nothing, through the database: raises when it is not usable."""
