"""What the core asks of the ledger about refunds and their wallets."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from signer.errors import HotWalletError
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Record
from signer.model.refund import InFlight, Move, Page, Refund, SignedTransaction, Status
from signer.model.refund_queue import Queue
from signer.model.signed_request import SignedRequest
from signer.model.spending_limits import NO_LIMITS, Limits
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from signer.ports.cancellations import Cancellations
from signer.ports.stop_store import StopStore
from signer.ports.tenant_blocks import TenantBlocks
from signer.ports.watch import Watches


@dataclass(frozen=True, slots=True)
class Reservation:
    """
    A queued refund that is to get a nonce.

    *limits* bound what all refunds together may spend.  *intent* is the audit record of
    the intent to sign.
    """

    refund: Refund
    gas_limit: int
    limits: Limits = NO_LIMITS
    intent: Record | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """
    A refund before and after a change.

    *transaction* are new signed bytes.  *record* is the audit record of their
    signature, or of the change.  *answer* becomes the response to the refund's request,
    unless there is one.
    """

    before: Refund
    after: Refund
    transaction: SignedTransaction | None = None
    record: Record | None = None
    answer: str | None = None


class Store(StopStore, TenantBlocks, Cancellations, Watches, Protocol):
    """
    The refunds, and the wallets that pay them.  Every method is one transaction.

    Any number of processes may share one ledger.  The constraints of the schema, and
    the version that every change compares, decide which process comes first.

    Every method raises ``StoreUnavailableError`` when the database does not answer.  A
    change of a refund or wallet raises ``StaleStateError`` if the stored version is not
    that of the argument.  A change of a refund, other than when it is due, raises
    ``RowNotAuthenticError`` as ``require_authentic`` does.
    """

    def find(self, tenant: str, idempotency_key: str) -> Refund | None:
        """Return the refund that the tenant created with this key, or None."""

    def accept(
        self,
        refund: Refund,
        record: Record | None = None,
        *,
        max_open: int | None = None,
        signed: SignedRequest | None = None,
        answer: str | None = None,
    ) -> tuple[Refund, bool]:
        """
        Insert a queued refund, or return the one that the same key created.

        The stored refund has a MAC of what it pays.  The other arguments are those of
        ``Acceptance``.  They are written in the same transaction if the refund is
        inserted.

        Returns:
            The stored refund, and whether this call created it.

        Raises:
            TenantBlockedError: An operator blocked the tenant.
            RowNotAuthenticError: Another program changed its block, perhaps to end it.
            InvalidInputError: A text field is too long, or has characters that a
                database cannot store.
            IdempotencyMismatchError: The tenant used the key with another fingerprint.
            ConflictError: The tenant used the reference with another key.
            OpenRefundsLimitError: The tenant would have more than *max_open*.
            ValueError: The refund is not queued, or has a request to cancel; a
                programming error.
        """

    def accept_all(
        self, acceptances: Sequence[Acceptance]
    ) -> Sequence[tuple[Refund, bool] | HotWalletError]:
        """
        Accept each refund as ``accept`` does, in one transaction for all.

        The result of each is what ``accept`` returns or raises.  A refused refund does
        not affect the others; an error of the database is the result of each.
        """

    def signed_request(self, refund_id: str) -> SignedRequest | None:
        """Return the request that was stored with the refund, or None."""

    def require_authentic(self, refund: Refund) -> None:
        """
        Require that what *refund* pays is what ``accept`` stored.

        Raises:
            RowNotAuthenticError: The MAC is missing or not valid.
        """

    def find_earlier(self, refund: Refund, tenants: Collection[str]) -> Refund | None:
        """
        Return the refund that one of *tenants* created with the key of *refund*.

        Raises:
            IdempotencyMismatchError: One of *tenants* used the key with another
                fingerprint.
            ConflictError: One of *tenants* used the reference with another key.
        """

    def get(self, refund_id: str) -> Refund | None:
        """Return the refund with this id, or None."""

    def find_advanced(
        self, refund_ids: Collection[str], statuses: Collection[Status]
    ) -> Sequence[tuple[Refund, str | None]]:
        """
        Return the refunds that have left *statuses* or are blocked, with their answers.

        *refund_ids* are the refunds in question.  An answer is None as in ``answer``.
        """

    def list(
        self,
        tenant: str,
        *,
        payment_session_id: str | None = None,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """
        Return the page of a tenant's refunds after *cursor*, newest first.

        Raises:
            InvalidInputError: *limit* or *cursor* is out of range.
        """

    def find_untouched(self, now: datetime) -> Refund | None:
        """
        Return the only refund that is due at *now*, if no process has changed it yet.

        None if two or more are due.  A worker need not claim the refund: reserving its
        nonce is a compare-and-set too.
        """

    def claim(self, now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        """
        Claim up to *limit* refunds that are due, and return them by id.

        Those that have been due for longest are claimed first.  No other call claims
        them again before *until*.

        A claim changes the version, so a worker that held the refund before and resumes
        late gets a ``StaleStateError``.  A refund whose due time is further in the
        future than any claim or delay lasts was dated by a wrong clock, and counts as
        due.
        """

    def postpone_queue(
        self, queue: Queue, *, now: datetime, until: datetime, code: str
    ) -> int:
        """
        Postpone the refunds of *queue* that are due at *now*, and return how many.

        Those that a process has claimed are not.  The error *code* blocks them until
        *until*.  Sweeps have other wallets and are not changed.  A long queue takes
        several transactions.
        """

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        """
        Return up to *limit* refunds that were sent and are not final, oldest first.

        *after* is the id of the last refund of the previous batch.  The cost grows with
        the number of open refunds, not with the size of the ledger.
        """

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Refund]:
        """Return up to *limit* open refunds of a wallet below *nonce*, lowest first."""

    def reserve_all(
        self,
        reservations: Sequence[Reservation],
        *,
        sender: str,
        key_id: str,
        counted: int,
        at: datetime,
    ) -> Sequence[Refund | HotWalletError]:
        """
        Assign the next nonces of one wallet to queued refunds, permanently.

        Each nonce is one past the highest that any row has for this chain and sender,
        in the order of *reservations*.  All are assigned in one transaction.  A refund
        that gets no nonce leaves no gap, and does not keep the others from theirs.

        *counted* is the transaction count of *sender* on the chain.  The limits count
        refunds that other processes reserve at the same time, in the hours of the
        database's clock, not of *at*.  A refund whose intent was written with its nonce
        is returned as ``intent_recorded``.

        Returns:
            The reserved refund for each reservation, or why it has no nonce:

            * ``KeyRotatedError``: *sender* is not the address of the active key, or
              that key is no longer pinned to *key_id*.  For a sweep, whose sender is a
              former key: the recipient is not the address of the active key.
            * ``LimitReachedError``: The refund would exceed one of its limits.
            * ``SigningStoppedError``, ``TenantBlockedError``: An operator forbids it.
            * ``RowNotAuthenticError``: Another program changed the refund, a stop or a
              block.
            * ``StaleStateError``: Another process changed the refund; a recorded
              transaction already paid it; the tenant asked to cancel it; the wallet is
              paused or was never opened; *counted* is ahead of the ledger; or signing
              was stopped meanwhile.
            * ``StoreUnavailableError``: It is unknown whether it has one.

        Raises:
            ValueError: A refund is not queued or of another chain, or *sender* is not
                an EIP-55 address, which would give one wallet two names; a programming
                error.
        """

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
        record: Record | None = None,
        answer: str | None = None,
    ) -> None:
        """
        Make one change, of which the arguments are the fields; or change nothing.

        Raises:
            StaleStateError: This attempt of the refund is already recorded; or signing
                is stopped, and *transaction* is not to be sent.
            ValueError: *after* is not the next version of *before*, changes a permanent
                field, or *transaction* belongs to another refund; a programming error.
        """

    def save_all(self, changes: Sequence[Change]) -> Sequence[HotWalletError | None]:
        """
        Make *changes* of different refunds, in one transaction if all are possible.

        Returns:
            None for each change that is stored; or the error that ``save`` raises for
            it alone, which does not keep the others from being stored.

        Raises:
            ValueError: As ``save``.
        """

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return every transaction signed for a refund, oldest first."""

    def recent_max_fees(
        self, chain_id: int, sender: str, since: datetime, limit: int
    ) -> Sequence[int]:
        """
        Return the max fees per gas, in wei, of a wallet's last confirmed transactions.

        At most *limit* transactions count, and only those signed from *since* on.
        """

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the state changes of a refund, oldest first."""

    def answer(self, refund_id: str) -> str | None:
        """
        Return the stored response to the refund's request, or None.

        A ``PENDING_ANSWER`` counts as None.
        """

    def remember_answer(self, refund_id: str, body: str, at: datetime) -> str:
        """
        Store *body* as the response of the first request; return what is stored.

        Only a ``PENDING_ANSWER`` is replaced.
        """

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        """Return the wallet, or None if it was never opened."""

    def wallets(self) -> Sequence[Wallet]:
        """Return every opened wallet, ordered by chain and address."""

    def paused_wallets(self) -> Collection[tuple[int, str]]:
        """Return the chain id and the address of each paused wallet."""

    def open_wallet(self, wallet: Wallet) -> None:
        """Insert *wallet*, unless it is already open."""

    def pause(self, wallet: Wallet, reason: Pause, at: datetime) -> None:
        """Stop assigning nonces of *wallet*; *reason* is stored with it."""

    def add_unrecorded(
        self, wallet: Wallet, seen: Sequence[UnrecordedTransaction]
    ) -> None:
        """
        Record final transactions that the chain has and the ledger did not.

        A nonce that is already recorded keeps its first record.
        """

    def unknown_nonces(
        self, chain_id: int, sender: str, below: int, limit: int
    ) -> Sequence[int]:
        """
        Return up to *limit* nonces of an opened wallet that no row has, lowest first.

        They lie between the wallet's first nonce and *below*, which is excluded.  A row
        is a refund or an ``UnrecordedTransaction``.
        """

    def foreign_transactions(
        self, chain_id: int, sender: str
    ) -> Sequence[UnrecordedTransaction]:
        """Return the wallet's unaccepted foreign transactions, lowest nonce first."""

    def resume(self, wallet: Wallet, at: datetime) -> None:
        """Assign nonces of *wallet* again, and accept its foreign transactions."""

    def find_unrecorded(
        self, chain_id: int, marks: Collection[bytes]
    ) -> Mapping[bytes, UnrecordedTransaction]:
        """
        Return the transactions that paid refunds with *marks*, by ``Refund.mark``.

        Any wallet may have sent them; the one with the lowest nonce counts.
        """

    def adopt(self, before: Refund, after: Refund) -> None:
        """
        Replace a queued refund by a mined one that a recorded transaction has paid.

        Raises:
            StaleStateError: Another refund has the nonce.
        """

    def now(self) -> datetime:
        """Return the time of the clock of the database's host."""

    def check(self) -> None:
        """
        Require that the database is usable, by one query.

        Raises:
            StoreUnavailableError: The database does not answer, or is read-only now.
            StoreError: Its schema is not the one that this program needs, or it
                acknowledges commits before they are durable.
        """
