"""The refund: its request, what is owed, and its status, as its tenant sees it."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Self, get_type_hints

from signer.model.payment import (
    OPEN_STATES,
    PAYMENT_MOVES,
    PaymentPurpose,
    PaymentState,
)
from signer.model.sealed_fields import (
    FreeText,
    NotStored,
    PrimaryKey,
    Small,
    Storage,
    TextEnum,
    Uint256,
    changed,
    sealed,
)
from signer.model.transaction import (
    CLAIM_TIME,
    EPOCH,
    Moved,
    PaymentEnd,
    Transaction,
    TransactionKind,
    TransactionStatus,
)


_REFUND_ID = re.compile(r"rf_[0-9a-f]{32}")

OPERATOR = "hotwallet operator"
"""The tenant of what the service owes itself.  No JWT subject or tenant has a space."""

COIN = "coin"
"""Used in place of a token symbol for the chain's native coin."""

COIN_ADDRESS = "0x" + "0" * 40
"""Used in place of a token contract for the native coin."""


class Status(TextEnum):
    """
    The status of a refund, as its tenant sees it: that of the payment, and while it is
    assigned that of its transaction; ``docs/explanation/refunds.md`` draws the states.
    """

    AWAITING_APPROVAL = "awaiting-approval"
    QUEUED = "queued"
    RESERVED = "reserved"
    SIGNED = "signed"
    BROADCAST = "broadcast"
    MINED = "mined"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def state(self) -> PaymentState:
        return _STATES[self]

    @property
    def is_final(self) -> bool:
        """Whether the refund never changes again."""
        return self.state not in OPEN_STATES


_STATES = dict.fromkeys(Status, PaymentState.ASSIGNED) | {
    Status(state): state for state in PaymentState if state != PaymentState.ASSIGNED
}

# By its text, and so by the state of a payment or the status of a transaction.
_STATUSES: Mapping[str, Status] = {status: status for status in Status}

OPEN = frozenset(status for status in Status if not status.is_final)

UNRESERVED = frozenset({Status.AWAITING_APPROVAL, Status.QUEUED})
"""Statuses without a nonce, in which the tenant may cancel the refund."""

UNSIGNED = UNRESERVED | {Status.RESERVED}
"""Statuses in which no transaction was signed yet."""

UNSENT = frozenset({Status.QUEUED, Status.RESERVED, Status.SIGNED})
"""Statuses in which the service must act before the chain can."""

IN_FLIGHT = frozenset({Status.BROADCAST, Status.MINED})
"""Statuses in which the service waits for the chain and must track it."""


@dataclass(frozen=True)
class RecordedAs:
    """The name of a field in the audit record; None: the record does not have it."""

    name: str | None


# ``json.dumps`` would make an encoder for each request.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """
    One refund as the gateway requested it.

    ``amount`` is a decimal string in whole tokens ("12.50").  ``reference`` is the
    gateway's own name for this refund: each reference is paid once, also under another
    idempotency key.

    With ``calldata``, which is hex, it is a call: ``token`` is ``COIN``, ``recipient``
    is called, and ``amount`` is the coin that it gets.  "0x" only transfers coin.

    The fingerprint and the signature of a tenant cover every field.  The audit record
    of the acceptance has every field but free text.
    """

    payment_session_id: str
    reference: str
    network: str
    token: Annotated[str, RecordedAs("token_symbol")]
    recipient: str
    amount: str
    # Free text does not belong in a log.
    reason: Annotated[str | None, RecordedAs(None)] = None
    calldata: str | None = None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the request, to detect a reused idempotency key."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return hashlib.sha256(_CANONICAL(values).encode()).hexdigest()


AS_REQUESTED = tuple(
    each.name
    for each in fields(RefundRequest)
    if each.name not in {"amount", "calldata"}
)
"""The fields that a refund has in the form of its request: all but two."""


def _recorded_name(name: str) -> str | None:
    hint = get_type_hints(RefundRequest, include_extras=True)[name]
    (own,) = getattr(hint, "__metadata__", (RecordedAs(name),))
    return own.name


RECORDED: Mapping[str, str] = {
    name: own for name in AS_REQUESTED if (own := _recorded_name(name)) is not None
}
"""Their names in the audit record of the acceptance, but for free text."""


@sealed("refund")
@dataclass(frozen=True)
class Refund:
    """
    An accepted refund: what is owed, one row, with the transaction that pays it.

    ``amount`` is an integer in base units.  ``sender``, ``nonce`` and ``position`` name
    the ``transaction``, and the place in it.  They are set together, at reservation.

    ``version`` counts the changes of the row: each is a compare-and-set on it.  A
    worker may claim a queued refund from ``due_at`` on; until then another process has
    it.  ``attempts`` counts the failures since the last move; ``blocked_by`` is the
    last error's code.  While the refund is assigned, its transaction has all of these
    (``moving``).

    ``cancel_requested_at`` is when a caller asked to cancel the refund while it was
    ``UNRESERVED``.  Only ``RefundStore.request_cancellation`` sets it, and leaves the
    version as it is.

    A call has ``calldata``: ``recipient`` is called with ``amount`` wei; without any
    bytes, it gets the coin.  None means a transfer whose calldata follows from the
    other fields (``payload_of``).

    ``bound_sender`` is the address that must pay a sweep.  The active key pays what
    tenants ask for, for which it is None.
    """

    id: PrimaryKey[str]
    tenant: str
    idempotency_key: str
    fingerprint: str
    reference: str
    payment_session_id: str
    network: str
    chain_id: int
    token: str
    token_address: str
    decimals: Small
    recipient: str
    amount: Uint256
    reason: str | None
    state: Moved[PaymentState]
    created_at: datetime
    updated_at: Moved[datetime]
    version: Moved[Small] = 0
    sender: Moved[str | None] = None
    nonce: Moved[int | None] = None
    position: Moved[Small | None] = None
    failure_code: Moved[str | None] = None
    failure_detail: Moved[FreeText | None] = None
    due_at: Moved[datetime] = EPOCH
    attempts: Moved[Small] = 0
    blocked_by: Moved[str | None] = None
    mac: str | None = field(default=None, compare=False, repr=False)
    cancel_requested_at: Moved[datetime | None] = None
    calldata: bytes | None = field(default=None, repr=False)
    purpose: PaymentPurpose = PaymentPurpose.REFUND
    bound_sender: str | None = None
    transaction: NotStored[Transaction | None] = None

    @property
    def status(self) -> Status:
        """The status that its tenant sees."""
        if self.state is not PaymentState.ASSIGNED:
            return _STATUSES[self.state]
        # Another program may have removed the transaction: no worker goes on then.
        return _STATUSES[self.transaction.status if self.transaction else "reserved"]

    @property
    def payments(self) -> tuple["Refund", ...]:
        """Itself, as ``Transaction.payments``."""
        return (self,)

    @property
    def strangers(self) -> tuple["Refund", ...]:
        """Nothing, as ``Transaction.strangers``."""
        return ()

    @property
    def names(self) -> Mapping[str, str]:
        """What logs call it."""
        return {"refund_id": self.id}

    @property
    def moving(self) -> "Refund | Transaction":
        """What a worker claims and moves now: the transaction, once there is one."""
        return self.transaction or self

    @property
    def revision(self) -> int:
        """How often the refund or its transaction has changed."""
        later = 0 if self.transaction is None else self.transaction.version
        return self.version + later

    @property
    def key_id(self) -> str | None:
        return None if self.transaction is None else self.transaction.key_id

    @property
    def gas_limit(self) -> int | None:
        """The gas that was reserved for its transaction."""
        return None if self.transaction is None else self.transaction.gas_limit

    @property
    def tx_hash(self) -> str | None:
        """The attempt of its transaction that was mined, or signed last."""
        return None if self.transaction is None else self.transaction.tx_hash

    @property
    def block_number(self) -> int | None:
        return None if self.transaction is None else self.transaction.block_number

    @property
    def kind(self) -> TransactionKind:
        """What the transaction that pays it does."""
        if self.purpose is PaymentPurpose.CALL:
            return TransactionKind.CALL
        if self.purpose is PaymentPurpose.SWEEP and self.token == COIN:
            return TransactionKind.COIN
        return TransactionKind.TRANSFER

    @property
    def memo(self) -> bytes:
        """
        16 bytes that identify the refund on the chain.

        They follow the transfer's arguments in the calldata, where contracts ignore
        them.  A ledger that was restored from a backup recognises its payments by them.
        The calldata of a call is not changed, so no transaction has its memo.
        """
        return make_memo(self.chain_id, self.tenant, self.reference)

    @property
    def named(self) -> str:
        """What ``Hold.forbids`` looks for a stopped token in."""
        coin = COIN if self.token == COIN and self.amount else ""
        data = (self.calldata or b"").hex()
        return f"{coin} {self.token_address} {self.recipient} {data}".lower()

    def reserved(self) -> Transaction:
        """
        Return the transaction of a reserved refund, which pays it alone.

        Raises:
            ValueError: The refund is not reserved, which is a programming error.
        """
        if self.transaction is None:
            raise ValueError("the refund is not reserved")
        return changed(self.transaction, payments=(self,))

    def inside(self, transaction: Transaction, position: int = 0) -> Self:
        """
        Return a copy with its place in *transaction*, and the same state.

        Positions count from 0 without a gap.  Beyond them are refunds that other
        programs pointed to the transaction.
        """
        return changed(
            self,
            sender=transaction.sender,
            nonce=transaction.nonce,
            position=position,
            transaction=changed(
                transaction, payments=(), strangers=(), members=(), intent=None
            ),
        )

    def assigned(self, transaction: Transaction, position: int = 0) -> Self:
        """
        Return a copy that *transaction*, which is new, pays in its *position*.

        One that awaits an approval is paid only if it was before a restore.

        Raises:
            ValueError: The refund may not be paid, which is a programming error.
        """
        is_lost = transaction.status is TransactionStatus.MINED
        if self.state is PaymentState.AWAITING_APPROVAL and not is_lost:
            raise ValueError(f"a refund cannot go from {self.state} to reserved")
        at = transaction.created_at
        return self.with_state(PaymentState.ASSIGNED, at).inside(transaction, position)

    def with_state(
        self,
        state: PaymentState,
        at: datetime,
        *,
        due_at: datetime | None = None,
        **changes: Any,
    ) -> Self:
        """
        Return a copy whose row has *state* and *changes*, one version later.

        The process that makes the move keeps its claim until *due_at*, by default for
        ``CLAIM_TIME``.

        Raises:
            ValueError: The move is not in ``PAYMENT_MOVES``, which is a programming
                error.
        """
        if state not in PAYMENT_MOVES[self.state]:
            raise ValueError(f"a refund cannot go from {self.state} to {state}")
        return changed(
            self,
            state=state,
            updated_at=at,
            version=self.version + 1,
            due_at=due_at or at + CLAIM_TIME,
            attempts=0,
            blocked_by=None,
            **changes,
        )

    def following(
        self,
        status: TransactionStatus,
        at: datetime,
        due_at: datetime,
        failure: Mapping[str, Any],
    ) -> Self:
        """
        Return a copy after its transaction has got *status*, with which it may end.

        *failure* is why it fails, or will.  One that another program ended stays.
        """
        state = _STATUSES[status].state
        if self.state is not PaymentState.ASSIGNED:
            return self
        if state is not self.state:
            return self.with_state(state, at, due_at=due_at, **failure)
        if all(getattr(self, name) == value for name, value in failure.items()):
            return self
        return changed(self, version=self.version + 1, **failure)

    def ended(self, end: PaymentEnd, at: datetime) -> Self:
        """
        Return a copy after its batch is final, with its own *end*.

        One that is queued again has no transaction, and a version above each revision
        that it had with this one.  One that another program ended stays.
        """
        if self.state is not PaymentState.ASSIGNED:
            return self
        if end.state is not PaymentState.QUEUED:
            return self.with_state(end.state, at, **end.failure)
        queued = self.with_state(
            end.state, at, due_at=end.due_at or at, failure_code=None
        )
        return changed(
            queued.placed_nowhere(),
            version=self.revision + 1,
            failure_detail=None,
            blocked_by=end.blocked_by,
        )

    def placed_nowhere(self) -> Self:
        """Return a copy without a place in a transaction."""
        return changed(self, sender=None, nonce=None, position=None, transaction=None)

    def with_due_at(
        self, due_at: datetime, *, attempts: int = 0, blocked_by: str | None = None
    ) -> Self:
        """Return a copy that is due at *due_at*, one version later."""
        return changed(
            self,
            version=self.version + 1,
            due_at=due_at,
            attempts=attempts,
            blocked_by=blocked_by,
        )


# It is compared several times before each signature.
@lru_cache(maxsize=1024)
def make_memo(chain_id: int, tenant: str, reference: str) -> bytes:
    """Return the ``Refund.memo`` of a reference of *tenant*."""
    name = json.dumps(["hotwallet", chain_id, tenant, reference])
    return hashlib.sha256(name.encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class InFlight:
    """
    A transaction that was broadcast, and each hash under which it may be mined.

    ``noops`` are those of attempts that pay nothing.
    """

    transaction: Transaction
    tx_hashes: tuple[str, ...]
    noops: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Move:
    """One status change of a refund; versions in between did not change the status."""

    refund_id: PrimaryKey[str]
    version: Annotated[int, Storage.KEY, Storage.SMALL]
    status: Status
    at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A page of refunds, newest first; ``next_cursor`` is None on the last page."""

    refunds: tuple[Refund, ...]
    next_cursor: str | None


def new_refund_id(now: datetime) -> str:
    """
    Return a fresh id that sorts by time, like a UUIDv7 (RFC 9562).

    ``rf_``, then 48 bits of milliseconds and 80 random bits, in hex.
    """
    return f"{id_prefix(now)}{secrets.token_hex(10)}"


def id_prefix(moment: datetime) -> str:
    """
    Return how the ids of refunds that are accepted in this millisecond begin.

    >>> id_prefix(EPOCH + timedelta(days=20484))
    'rf_019c11597000'
    """
    since = moment - EPOCH
    return f"rf_{since // timedelta(milliseconds=1):012x}"


def is_refund_id(text: str) -> bool:
    """Return whether *text* has the format of ``new_refund_id``."""
    return _REFUND_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Queue:
    """The queued refunds of a network or a token there, of all tenants or of one."""

    network: str | None = None
    tenant: str | None = None
    token: str | None = None

    @property
    def names(self) -> Mapping[str, str]:
        """
        What is not None, by the name of its field.

        >>> dict(Queue(tenant="shop").names)
        {'tenant': 'shop'}
        """
        named = {name: getattr(self, name) for name in ("network", "tenant", "token")}
        return {name: value for name, value in named.items() if value is not None}
