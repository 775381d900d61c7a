"""The port to the ledger of refunds and wallets."""

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
    The ledger of refunds and wallets.  Every method is one transaction.

    Any number of processes may share it.  The schema's constraints and the compared
    versions decide which of two concurrent changes is first.  All methods raise
    ``StoreUnavailableError`` if the database does not answer.
    """

    def find(self, client: str, idempotency_key: str) -> Refund | None:
        """Return the refund that *client* created with this key, if any."""

    def accept(self, refund: Refund) -> tuple[Refund, bool]:
        """
        Insert a queued refund, or return the one that has its idempotency key.

        Returns:
            The stored refund, and whether this call created it.

        Raises:
            IdempotencyMismatchError: The key was used with another fingerprint.
            ConflictError: Another key already requested the same reference.
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
        """Return a client's refunds, newest first, starting after *cursor*."""

    def claim(self, now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        """
        Claim due refunds until *until*, those first that have waited longest.

        A claim raises the version like any change, so a process whose claim expired
        cannot save.  A due date much later than any claim or delay comes from a wrong
        clock, and counts as due.
        """

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """
        Return refunds that are broadcast and not final, oldest first.

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

        The nonce is one more than the highest that a row has for this chain and sender.
        *counted* is the chain's next nonce, pending transactions included.  *limits*
        bound what all refunds of the token pay, also concurrent ones.  *intent* is the
        audit record that is written with it; the returned refund then has
        ``intent_recorded``.

        Raises:
            KeyRotatedError: *sender* is no longer the active key's address, or its key
                is no longer *key_id*.  For a sweep, whose sender is a former key's:
                its recipient is no longer the active key's address.
            LimitReachedError: The refund would exceed one of *limits*.
            StaleStateError: The refund has changed, an unrecorded transaction has paid
                it, its wallet is paused or not opened, or *counted* is ahead of the
                ledger.
        """

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
        outcome: Record | None = None,
    ) -> None:
        """
        Replace *before* by *after*, and insert *transaction* and *outcome* with it.

        *outcome* is the audit record of the transaction's signature.

        Raises:
            StaleStateError: The stored version is not that of *before*.
        """

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return all transactions that were signed for a refund, oldest first."""

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the status changes of a refund, oldest first."""

    def answer(self, refund_id: str) -> str | None:
        """Return the response body of the request that created this refund, if any."""

    def remember_answer(self, refund_id: str, body: str, at: datetime) -> str:
        """Store *body* as that response; return the first one that was stored."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, if it was opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every opened wallet, ordered by chain and address."""

    def open_wallet(self, wallet: Wallet) -> None:
        """Insert *wallet*, unless it is already open."""

    def pause(self, wallet: Wallet, reason: Pause, at: datetime) -> None:
        """
        Stop assigning nonces of *wallet*.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def add_unrecorded(
        self, wallet: Wallet, seen: Sequence[UnrecordedTransaction]
    ) -> None:
        """
        Insert transactions that the chain has and the ledger did not know.

        One that was inserted before stays unchanged.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def unknown_nonces(
        self, chain_id: int, sender: str, below: int, limit: int
    ) -> Sequence[int]:
        """
        Return nonces that neither a refund nor an unrecorded transaction has.

        They are at least the wallet's first nonce and less than *below*: the *limit*
        lowest ones, in order.
        """

    def foreign_transactions(
        self, chain_id: int, sender: str
    ) -> Sequence[UnrecordedTransaction]:
        """Return foreign transactions that are not accepted yet, lowest nonce first."""

    def resume(self, wallet: Wallet, at: datetime) -> None:
        """
        Assign nonces of *wallet* again, and accept its foreign transactions.

        Raises:
            StaleStateError: The stored version is not that of *wallet*.
        """

    def pause_network(self, chain_id: int, at: datetime) -> bool:
        """
        Stop assigning nonces on a chain; return whether that is a change.

        No reservation is under way any more when this returns.
        """

    def network_paused_at(self, chain_id: int) -> datetime | None:
        """Return when a chain was paused; None if it is not."""

    def resume_network(self, chain_id: int) -> bool:
        """End the pause of a chain; return whether it was paused."""

    def find_unrecorded(
        self, chain_id: int, mark: bytes
    ) -> UnrecordedTransaction | None:
        """Return the unrecorded transaction, of any wallet, that has *mark*."""

    def adopt(self, before: Refund, after: Refund) -> None:
        """
        Replace a queued refund by the mined one that an unrecorded transaction paid.

        Raises:
            StaleStateError: The stored version is not that of *before*, or another
                refund has the nonce.
        """

    def check(self) -> None:
        """Run an empty transaction; raise if the database is not usable."""
