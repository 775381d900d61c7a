"""The refund: request, row, statuses, legal moves, and its signed transactions."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Self, TypeVar, get_type_hints

from signer.model.audit_record import Record
from signer.model.row import (
    FreeText,
    NotStored,
    PrimaryKey,
    Small,
    Storage,
    Uint256,
    Unprotected,
    sealed,
)


_REFUND_ID = re.compile(r"rf_[0-9a-f]{32}")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

OPERATOR = "hotwallet operator"
"""The tenant of what the service owes itself.  No JWT subject or tenant has a space."""

COIN = "coin"
"""Used in place of a token symbol for the chain's native coin."""

COIN_ADDRESS = "0x" + "0" * 40
"""Used in place of a token contract for the native coin."""

HOLD = timedelta(seconds=10)
"""How long a refund stays claimed by the process that moved or claimed it last."""


class PaymentPurpose(StrEnum):
    """
    Why a row of the ledger is paid.

    A tenant asks for a refund, or for a call, whose calldata its client chose.  A sweep
    moves what a former key's address holds to the active key's, and counts against no
    limit.  A filler pays nothing: it consumes a nonce that a restored ledger does not
    know.
    """

    REFUND = "refund"
    CALL = "call"
    SWEEP = "sweep"
    FILLER = "filler"


class TransactionKind(StrEnum):
    """What the transactions of a nonce do, unless a no-op consumes it."""

    TRANSFER = "transfer"
    COIN = "coin"
    CALL = "call"
    FILLER = "filler"


class Status(StrEnum):
    """The status of a refund; ``docs/explanation/refunds.md`` draws the states."""

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
    def is_final(self) -> bool:
        """Whether the refund never changes again."""
        return not MOVES[self]


# A refund only moves along these.  It goes back from mined when a reorganisation
# removes its block, and from broadcast when it is signed again with higher fees.  After
# a restore from a backup, a transaction that the ledger has lost is found mined.  A
# queued refund waits for an approval when the amount that needs none was lowered.
MOVES: dict[Status, frozenset[Status]] = {
    Status.AWAITING_APPROVAL: frozenset(
        {Status.QUEUED, Status.MINED, Status.REFUSED, Status.CANCELLED}
    ),
    Status.QUEUED: frozenset(
        {
            Status.AWAITING_APPROVAL,
            Status.RESERVED,
            Status.MINED,
            Status.REFUSED,
            Status.CANCELLED,
        }
    ),
    Status.RESERVED: frozenset({Status.SIGNED, Status.MINED, Status.FAILED}),
    Status.SIGNED: frozenset({Status.BROADCAST}),
    Status.BROADCAST: frozenset({Status.SIGNED, Status.MINED, Status.FAILED}),
    Status.MINED: frozenset({Status.BROADCAST, Status.CONFIRMED, Status.FAILED}),
    Status.CONFIRMED: frozenset(),
    Status.REFUSED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.FAILED: frozenset(),
}

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
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


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


_T = TypeVar("_T")

Moved = Annotated[
    _T, Unprotected("it changes with each step; legal moves and triggers limit it")
]


@sealed("refund")
@dataclass(frozen=True, slots=True)
class Refund:
    """
    An accepted refund: one row in the ledger, and one nonce for life.

    ``amount`` is an integer in base units.  ``sender``, ``key_id``, ``nonce`` and
    ``gas_limit`` are set together, at reservation, and never change afterwards.

    ``version`` counts the changes: each is a compare-and-set on it.  A worker may claim
    the refund from ``due_at`` on; until then another process has it.  ``attempts``
    counts the failures since the last move; ``blocked_by`` is the last error's code.

    ``cancel_requested_at`` is when a caller asked to cancel the refund while it was
    ``UNRESERVED``.  Only ``RefundStore.request_cancellation`` sets it, and leaves the
    version as it is.

    A call has ``calldata``: ``recipient`` is called with ``amount`` wei; without any
    bytes, it gets the coin.  None means a transfer whose calldata follows from the
    other fields (``payload_of``).

    ``bound_sender`` is the address that must pay a sweep or a filler.  The active key
    pays what tenants ask for, for which it is None.
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
    status: Moved[Status]
    created_at: datetime
    updated_at: Moved[datetime]
    version: Moved[Small] = 0
    sender: Moved[str | None] = None
    key_id: Moved[str | None] = field(default=None, repr=False)
    nonce: Moved[int | None] = None
    gas_limit: Moved[int | None] = None
    tx_hash: Moved[str | None] = None
    block_number: Moved[int | None] = None
    block_hash: Moved[str | None] = None
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
    # Not stored.  Only the process that reserved the nonce has the audit record of the
    # intent to sign, which it wrote.  A process that continues later writes a new one.
    intent: NotStored[Record | None] = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> TransactionKind:
        """What the transaction that pays it does."""
        if self.purpose is PaymentPurpose.CALL:
            return TransactionKind.CALL
        if self.purpose is PaymentPurpose.FILLER:
            return TransactionKind.FILLER
        if self.purpose is PaymentPurpose.SWEEP and self.token == COIN:
            return TransactionKind.COIN
        return TransactionKind.TRANSFER

    @property
    def mark(self) -> bytes:
        """
        16 bytes that identify the refund on the chain.

        They follow the transfer's arguments in the calldata, where contracts ignore
        them.  A ledger that was restored from a backup recognises its payments by them.
        The calldata of a call is not changed, so no transaction has its mark.
        """
        return _make_mark(self.chain_id, self.tenant, self.reference)

    @property
    def named(self) -> str:
        """What ``Hold.forbids`` looks for a stopped token in."""
        coin = COIN if self.token == COIN and self.amount else ""
        data = (self.calldata or b"").hex()
        return f"{coin} {self.token_address} {self.recipient} {data}".lower()

    def reservation(self) -> tuple[str, int, int]:
        """
        Return sender, nonce and gas limit of a reserved refund.

        Raises:
            ValueError: The refund is not reserved, which is a programming error.
        """
        if self.sender is None or self.nonce is None or self.gas_limit is None:
            raise ValueError("the refund is not reserved")
        return self.sender, self.nonce, self.gas_limit

    def with_status(
        self,
        status: Status,
        at: datetime,
        *,
        due_at: datetime | None = None,
        **changes: Any,
    ) -> Self:
        """
        Return a copy with *status* and *changes*, one version later.

        The process that makes the move keeps its claim until *due_at*, by default for
        ``HOLD``.

        Raises:
            ValueError: The move is not in ``MOVES``, which is a programming error.
        """
        if status not in MOVES[self.status]:
            raise ValueError(f"a refund cannot go from {self.status} to {status}")
        return replace(
            self,
            status=status,
            updated_at=at,
            version=self.version + 1,
            due_at=due_at or at + HOLD,
            attempts=0,
            blocked_by=None,
            **{"intent": None, **changes},
        )

    def with_due_at(
        self, due_at: datetime, *, attempts: int = 0, blocked_by: str | None = None
    ) -> Self:
        """Return a copy that is due at *due_at*, one version later."""
        return replace(
            self,
            version=self.version + 1,
            due_at=due_at,
            attempts=attempts,
            blocked_by=blocked_by,
            intent=None,
        )


# It is compared several times before each signature.
@lru_cache(maxsize=1024)
def _make_mark(chain_id: int, tenant: str, reference: str) -> bytes:
    name = json.dumps(["hotwallet", chain_id, tenant, reference])
    return hashlib.sha256(name.encode()).digest()[:16]


class Kind(StrEnum):
    """
    What a transaction does with its nonce.

    A no-op sends nothing to the wallet itself.  It consumes the nonce of a refund that
    can never be paid, so that higher nonces can be mined.
    """

    TRANSFER = "transfer"
    NOOP = "noop"


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """
    A signed transaction, stored before it is broadcast.

    ``attempt`` numbers the transactions of one refund from 0; all have its nonce.  Fees
    are in wei per gas.
    """

    tx_hash: PrimaryKey[str]
    refund_id: str
    attempt: Small
    kind: Kind
    chain_id: int
    sender: str
    nonce: int
    max_fee_per_gas: Uint256
    max_priority_fee_per_gas: Uint256
    gas_limit: int
    raw: bytes = field(repr=False)
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class InFlight:
    """
    A refund that was broadcast, and each hash under which it may be mined.

    ``noops`` are those of transactions that pay nothing.
    """

    refund: Refund
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

    >>> id_prefix(datetime(2026, 1, 31, tzinfo=UTC))
    'rf_019c11597000'
    """
    since = moment - EPOCH
    return f"rf_{since // timedelta(milliseconds=1):012x}"


def is_refund_id(text: str) -> bool:
    """Return whether *text* has the format of ``new_refund_id``."""
    return _REFUND_ID.fullmatch(text) is not None
