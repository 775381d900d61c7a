"""Refunds: what the core reads and changes of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from signer.errors import HotWalletError
from signer.model.acceptance import Acceptance, SignedRequest
from signer.model.audit_record import Record
from signer.model.refund import InFlight, Move, Queue, Refund, Status
from signer.model.spending_limits import NO_LIMITS, Limits, PaymentTotals, Spent
from signer.model.transaction import SignedTransaction, Transaction


Permit = Callable[[PaymentTotals], None]
"""Raises ``PolicyViolationError`` unless a payment with these totals may be made."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """
    A queued refund that is to get a nonce.

    *limits* bound what all refunds together may spend.  *draft_intent* drafts the audit
    record of the intent to sign its transaction, which is written in the same commit.
    With *vault*, other refunds of its token may have the same transaction.
    *approvals* are the digests of the proposals that must be approved.

    *permit* decides about the totals, if a rule of the policy reads them.  It is called
    in the transaction, and may neither read nor write the store.

    *earlier* counts the transactions of which the chain has shown that they did not pay
    the refund (``NonceManager.count_earlier``).  It gets no nonce if it had others.
    """

    refund: Refund
    gas_limit: int
    limits: Limits = NO_LIMITS
    draft_intent: Callable[[Transaction], Record] | None = None
    approvals: frozenset[str] = frozenset()
    permit: Permit | None = None
    vault: str | None = None
    earlier: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """
    Which queued refunds may be claimed, since their wallets may send transactions.

    ``free`` is how many, and None any number.  None of the chains in ``full`` is
    claimed, except sweeps, which have other wallets.
    """

    free: int | None = None
    full: frozenset[int] = frozenset()


ANY_PLACES = Places()
"""No wallet has a bound."""


@dataclass(frozen=True, slots=True)
class Change:
    """
    What moves, before and after: a transaction with its payments, or a refund without.

    *attempt* are new signed bytes of the transaction.  *record* is the audit record of
    their signature, or of the change.
    """

    before: Refund | Transaction
    after: Refund | Transaction
    attempt: SignedTransaction | None = None
    record: Record | None = None

    @property
    def transactions(self) -> tuple[Transaction, Transaction]:
        """
        The transaction before and after the change.

        Raises:
            TypeError: It has none, which is a programming error.
        """
        if isinstance(self.before, Refund) or isinstance(self.after, Refund):
            raise TypeError("only a transaction has attempts")
        return self.before, self.after


class Topic(StrEnum):
    """What a process waits for."""

    ACCEPTED = "accepted"
    """A refund was accepted, or a caller asked to cancel one: work for a worker."""

    MOVED = "moved"
    """A refund changed its status, or why it waits: news for its caller."""

    CHANGED = "changed"
    """Any of these, and no caller waits for it: there is an event to deliver."""

    RECORDED = "recorded"
    """An audit record was stored: work for a sealer."""


class Watch(Protocol):
    """
    Waits for changes that other connections make.

    One thread uses a watch at a time; many threads may each have their own.
    """

    def wait(self, seconds: float) -> bool:
        """
        Return True as soon as the topic may have changed, or False after *seconds*.

        Changes since the last call count, or since the watch began.  It may return True
        without a change, but it misses none: a caller that reads, waits and reads again
        sees every change.

        It raises no error.  While the database does not answer, it returns True after
        0.2 seconds at most, so that the caller reads and gets the error.
        """


class RefundStore(Protocol):
    """
    The refunds.  Every method is one transaction.

    Any number of processes may share one ledger.  The constraints of the schema, and
    the version that every change compares, decide which process comes first.

    Every method raises ``StoreUnavailableError`` when the database does not answer.  A
    change of a refund raises ``StaleStateError`` if the stored version is not that of
    the argument.  A change of a refund, other than when it is due, raises
    ``RowNotAuthenticError`` as ``require_authentic`` does.
    """

    def find(self, tenant: str, idempotency_key: str) -> Refund | None:
        """Return the refund that the tenant created with this key, or None."""

    def signed_request(self, refund_id: str) -> SignedRequest | None:
        """Return the request that was stored with the refund, or None."""

    def find_reference(self, tenant: str, reference: str) -> Refund | None:
        """Return the refund that the tenant created with this reference, or None."""

    def find_transaction(
        self, chain_id: int, sender: str, nonce: int
    ) -> Transaction | None:
        """Return what has this nonce of a wallet, or None."""

    def find_earlier(self, refund: Refund, tenants: Collection[str]) -> Refund | None:
        """
        Return the refund that one of *tenants* created with the key of *refund*.

        Raises:
            IdempotencyMismatchError: One of *tenants* used the key with another
                fingerprint.
            ConflictError: One of *tenants* used the reference with another key.
        """

    def earlier_nonces(self, refund_id: str) -> Sequence[tuple[int, str, int]]:
        """
        Return chain, sender and nonce of each transaction that a refund was given.

        Only the chain says whether one of them paid it.
        """

    def find_reverted(self, refund_ids: Collection[str]) -> frozenset[str]:
        """Return those of *refund_ids* of which an earlier transaction reverted."""

    def get(self, refund_id: str) -> Refund | None:
        """Return the refund with this id, or None."""

    def find_advanced(
        self, refund_ids: Collection[str], statuses: Collection[Status]
    ) -> Sequence[Refund]:
        """Return those of *refund_ids* that have left *statuses* or are blocked."""

    def in_flight(
        self, limit: int, after: Transaction | None = None
    ) -> Sequence[InFlight]:
        """
        Return up to *limit* transactions that were sent and are not final.

        They have no payments, and the order of wallets and nonces; *after* is the last
        of the previous batch.  Fewer than *limit* are the last ones.  The cost grows
        with the number of open ones, not with the size of the ledger.
        """

    def with_payments(
        self, transactions: Sequence[Transaction]
    ) -> Sequence[Transaction]:
        """Return *transactions* as they are now, with what they pay."""

    def open_calls(self, chain_id: int) -> Sequence[Refund]:
        """Return the calls of a chain that are not final, oldest first."""

    def unmined_amounts(
        self, chain_id: int, vault: str | None, token_address: str
    ) -> Mapping[str, int]:
        """
        Return the sums of a token that *vault* is to pay, and that no block has.

        They are by sender, who pays from its own address if there is no vault.  What a
        revoked key has signed may never be mined.
        """

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Transaction]:
        """
        Return up to *limit* that are not final below *nonce*, lowest first.

        A filler that another program invented is left out, as in ``unknown_nonces``.
        """

    def attempts(self, transaction: Transaction) -> Sequence[SignedTransaction]:
        """Return every attempt of *transaction* that was signed, oldest first."""

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        """Return every attempt that was signed for a refund, oldest first."""

    def recent_max_fees(
        self, chain_id: int, sender: str, since: datetime, limit: int
    ) -> Sequence[int]:
        """
        Return the max fees per gas, in wei, of a wallet's last confirmed transactions.

        At most *limit* transactions count, and only those signed from *since* on.
        """

    def history(self, refund_id: str) -> Sequence[Move]:
        """Return the state changes of a refund, oldest first."""

    def accept_all(
        self, acceptances: Sequence[Acceptance]
    ) -> Sequence[tuple[Refund, bool] | HotWalletError]:
        """
        Insert new refunds, in one transaction for all.

        Each stored refund has a MAC of what it pays.  What else an ``Acceptance`` has
        is stored with its refund if that is inserted.  A refused refund does not affect
        the others; an error of the database is the result of each.

        Returns:
            For each, in their order, either the stored refund and whether this call
            created it (otherwise the same key did earlier), or one of these errors.

            ``TenantBlockedError``: An operator blocked the tenant.
            ``RowNotAuthenticError``: Another program changed its block, perhaps to end
            it.
            ``InvalidInputError``: A text field is too long, or has characters that a
            database cannot store.
            ``IdempotencyMismatchError``: The tenant used the key with another
            fingerprint.
            ``ConflictError``: The tenant used the reference with another key.
            ``OpenRefundsLimitError``: The tenant would have more than ``max_open``.

        Raises:
            ValueError: A refund is neither queued nor proposed for an approval, or has
                a request to cancel; a programming error.
        """

    def require_authentic(self, moving: Refund | Transaction) -> None:
        """
        Require that a refund pays what ``accept_all`` stored, or a transaction does.

        The transaction must also have the nonce, key and gas that were reserved.

        Raises:
            RowNotAuthenticError: The MAC is missing or not valid.
        """

    def has_open(self) -> bool:
        """Return whether a refund or a transaction, also a filler, is not final."""

    def decided_refunds(
        self, now: datetime, since: datetime, limit: int
    ) -> Sequence[Refund]:
        """
        Return up to *limit* refunds that have waited for an approval, the oldest first.

        They have the status ``awaiting-approval`` and are due at *now*.  Their proposal
        is decided, expired at *now* or missing, or they have waited from *since* on.
        """

    def claim(
        self,
        now: datetime,
        until: datetime,
        limit: int,
        *,
        unclaimed: int = 0,
        places: Places = ANY_PLACES,
    ) -> Sequence[Refund | Transaction]:
        """
        Claim up to *limit* queued refunds and transactions that are due.

        *places* bounds the refunds.  Those that it leaves out stay as they are.

        Those that have been due for longest are claimed first.  No other call claims
        them again before *until*.  Transactions are returned before refunds, the lowest
        nonces first.

        A claim changes the version, so a worker that held it before and resumes late
        gets a ``StaleStateError``.  What has a due time further in the future than any
        claim or delay lasts was dated by a wrong clock, and counts as due.

        Up to *unclaimed* new refunds are returned without a claim, if nothing else is
        due: reserving their nonces is a compare-and-set too, which only one process
        can make.
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

    def reserve_all(
        self,
        reservations: Sequence[Reservation],
        *,
        sender: str,
        key_id: str,
        counted: int,
        at: datetime,
        window: int | None = None,
        per_batch: int = 1,
    ) -> Sequence[Transaction | HotWalletError]:
        """
        Assign the next nonces of one wallet to queued refunds, permanently.

        Each nonce is one past the highest that any row has for this chain and sender,
        in the order of *reservations*.  Up to *per_batch* of one vault and token have
        one together, within the largest gas limit of a transaction (EIP-7825).  All are
        assigned in one commit.  A refund that gets no nonce leaves no gap, and does not
        keep the others from theirs.

        *counted* is the transaction count of *sender* on the chain.  Limits and totals
        count refunds that other processes reserve at the same time, in the hours of the
        database's clock, not of *at*.  A transaction whose intent was written with it
        has that as ``intent``.  With *window*, the wallet has at most so many
        transactions without a receipt afterwards; fillers count.

        Returns:
            The transaction for each reservation, or why there is none:

            * ``KeyRotatedError``: *sender* is not the address of the active key, or
              that key is no longer pinned to *key_id*.  For a sweep, whose sender is a
              former key: the recipient is not the address of the active key.
            * ``LimitReachedError``: The refund would exceed one of its limits.
            * ``PolicyViolationError``: ``permit`` raised it.
            * ``TooManyInFlightError``: The *window* is full.
            * ``SigningStoppedError``, ``TenantBlockedError``: An operator forbids it.
            * ``RowNotAuthenticError``: Another program changed the refund, a stop, a
              block or the approval.
            * ``StaleStateError``: Another process changed the refund; a recorded
              transaction already paid it; the tenant asked to cancel it; it is not
              approved; the wallet is
              paused or was never opened; *counted* is ahead of the ledger; or signing
              was stopped meanwhile.
            * ``StoreUnavailableError``: It is unknown whether it has one.

        Raises:
            ValueError: A refund is not queued or of another chain, or *sender* is not
                an EIP-55 address, which would give one wallet two names; a programming
                error.
        """

    def count_in_flight(self, sender: str) -> Mapping[int, int]:
        """Return by chain id how many transactions of *sender* have no receipt."""

    def spent(self, refund: Refund) -> tuple[Spent, Spent]:
        """
        Return what the limits of *refund* have counted until now.

        First that of all tenants, then that of its own tenant.  The hours are those of
        the database's clock, as in ``reserve_all``.  *refund* need not be stored.
        """

    def payment_totals(self, refund: Refund) -> PaymentTotals:
        """
        Return the totals with which ``reserve_all`` would ask about *refund* now.

        Other processes may change them at any time: only those in the transaction of a
        reservation are exact.
        """

    def save(
        self,
        before: Refund | Transaction,
        after: Refund | Transaction,
        attempt: SignedTransaction | None = None,
        record: Record | None = None,
    ) -> None:
        """
        Make one change, of which the arguments are the fields; or change nothing.

        Raises:
            StaleStateError: This attempt of the refund is already recorded; or signing
                is stopped, and *attempt* is not to be sent.
            ValueError: *after* is not the next version of *before*, changes a permanent
                field, or *attempt* is of another nonce; a programming error.
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

    def adopt(self, before: Refund, after: Refund) -> Refund:
        """
        Give a refund without a nonce the one that it had before the restore.

        *after* is mined if a recorded transaction has paid it, and reserved otherwise.
        Return it with the MAC of its transaction.

        Raises:
            StaleStateError: Another refund has the nonce.
        """

    def adopt_batch(self, payments: Sequence[Refund], draft: Transaction) -> None:
        """
        Give *payments* the batch that they had before the restore, in this order.

        Raises:
            StaleStateError: One has a transaction, or another one has the nonce.
        """

    def fill(self, transaction: Transaction) -> None:
        """
        Store a new filler, which consumes a nonce that nothing has.

        Raises:
            StaleStateError: Something has the nonce.
        """

    def now(self) -> datetime:
        """Return the time of the clock of the database's host."""

    def connections(self) -> tuple[int, int]:
        """Return how many connections of this process are in use, and the most."""

    def check(self) -> None:
        """
        Require that the database is usable, by one query.

        Raises:
            StoreUnavailableError: The database does not answer, or is read-only now.
            StoreError: Its schema is not the one that this program needs, or it
                acknowledges commits before they are durable.
        """

    def request_cancellation(
        self, refund: Refund, at: datetime, record: Record
    ) -> bool:
        """
        Store that a caller asked at *at* to cancel *refund*, unless it is too late.

        A request changes neither the version nor the due time.  Once it is stored, the
        refund gets no nonce, also if a worker read the refund before.

        *record*, the audit record of the request, is written in the same transaction if
        the request is stored.

        Returns:
            Whether this call stored it.  If not, the refund has a nonce or has ended,
            or the first request stays as it is.

        Raises:
            RowNotAuthenticError: As ``RefundStore.require_authentic``.
        """

    def cancellation_requests(
        self, limit: int, after: str | None = None
    ) -> Sequence[Refund]:
        """
        Return up to *limit* refunds that a caller asked to cancel, oldest first.

        *after* is the id of the last refund of the previous batch.  A worker that
        cannot cancel some reads on after them, so that they hold up no others.
        """

    def watch(self, topic: Topic) -> AbstractContextManager[Watch]:
        """
        Watch for changes of *topic*, and perhaps also others, until the context ends.

        It is cheap, and does not wait for the database.
        """
