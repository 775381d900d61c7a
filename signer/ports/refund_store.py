"""What the core changes in the ledger about refunds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from signer.errors import HotWalletError
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Record
from signer.model.payment_totals import PaymentTotals
from signer.model.refund import Refund, SignedTransaction
from signer.model.refund_queue import Queue
from signer.model.spending_limits import NO_LIMITS, Limits, Spent
from signer.ports.approvals import ApprovalStore
from signer.ports.cancellations import Cancellations
from signer.ports.look_store import LookStore
from signer.ports.refund_reader import RefundReader
from signer.ports.stop_store import StopStore
from signer.ports.tenant_blocks import TenantBlocks
from signer.ports.wallet_store import WalletStore
from signer.ports.watch import Watches


Permit = Callable[[PaymentTotals], None]
"""Raises ``PolicyViolationError`` unless a payment with these totals may be made."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """
    A queued refund that is to get a nonce.

    *limits* bound what all refunds together may spend.  *draft_intent* drafts the audit
    record of the intent to sign with the nonce, which is written in the same commit.
    *approvals* are the digests of the proposals that must be approved.

    *permit* decides about the totals, if a rule of the policy reads them.  It is called
    in the transaction, and may neither read nor write the store.
    """

    refund: Refund
    gas_limit: int
    limits: Limits = NO_LIMITS
    draft_intent: Callable[[int], Record] | None = None
    approvals: frozenset[str] = frozenset()
    permit: Permit | None = None


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


class Store(
    RefundReader,
    WalletStore,
    StopStore,
    TenantBlocks,
    Cancellations,
    ApprovalStore,
    LookStore,
    Watches,
    Protocol,
):
    """
    The refunds, and the wallets that pay them.  Every method is one transaction.

    Any number of processes may share one ledger.  The constraints of the schema, and
    the version that every change compares, decide which process comes first.

    Every method raises ``StoreUnavailableError`` when the database does not answer.  A
    change of a refund or wallet raises ``StaleStateError`` if the stored version is not
    that of the argument.  A change of a refund, other than when it is due, raises
    ``RowNotAuthenticError`` as ``require_authentic`` does.
    """

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

    def require_authentic(self, refund: Refund) -> None:
        """
        Require that what *refund* pays is what ``accept_all`` stored.

        Raises:
            RowNotAuthenticError: The MAC is missing or not valid.
        """

    def find_only_due(self, now: datetime) -> Refund | None:
        """
        Return the only refund that is due at *now*, if no process has changed it yet.

        None if two or more are due.  A worker need not claim the refund: reserving its
        nonce is a compare-and-set too.
        """

    def decided_refunds(
        self, now: datetime, since: datetime, limit: int
    ) -> Sequence[Refund]:
        """
        Return up to *limit* refunds that have waited for an approval, the oldest first.

        They have the status ``awaiting-approval`` and are due at *now*.  Their proposal
        is decided, expired at *now* or missing, or they have waited from *since* on.
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

        *counted* is the transaction count of *sender* on the chain.  Limits and totals
        count refunds that other processes reserve at the same time, in the hours of the
        database's clock, not of *at*.  A refund whose intent was written with its nonce
        has it as ``intent``.

        Returns:
            The reserved refund for each reservation, or why it has no nonce:

            * ``KeyRotatedError``: *sender* is not the address of the active key, or
              that key is no longer pinned to *key_id*.  For a sweep, whose sender is a
              former key: the recipient is not the address of the active key.
            * ``LimitReachedError``: The refund would exceed one of its limits.
            * ``PolicyViolationError``: ``permit`` raised it.
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

    def remember_answer(self, refund_id: str, body: str, at: datetime) -> str:
        """
        Store *body* as the response of the first request; return what is stored.

        Only a ``PENDING_ANSWER`` is replaced.
        """

    def adopt(self, before: Refund, after: Refund) -> None:
        """
        Give a refund without a nonce the one that it had before the restore.

        *after* is mined if a recorded transaction has paid it, and reserved otherwise.

        Raises:
            StaleStateError: Another refund has the nonce.
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
