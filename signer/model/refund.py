"""The refund: what was asked, where it stands, and which moves are legal."""

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, Self


_REFUND_ID = re.compile(r"rf_[0-9a-f]{32}")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

SWEEPER = "hotwallet sweep"
"""The client of sweeps: no token's subject has a space in it."""

COIN = "coin"
"""In the place of a token's symbol: what the chain itself is paid in."""

COIN_ADDRESS = "0x" + "0" * 40
"""In the place of a token's contract."""

HOLD = timedelta(seconds=10)
"""For how long a refund belongs to whoever moved it, or took it up, last."""


class Status(StrEnum):
    """Where a refund stands.  ``docs/explanation/refunds.md`` draws the picture."""

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
        """Whether nothing will ever happen to the refund again."""
        return not MOVES[self]


# A refund only moves along these.  Mined goes back when a reorganisation takes its
# block away, and broadcast when it is signed again at a higher price.  A transaction
# that the ledger forgot, since it was restored from a backup, is found mined at once.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset(
        {Status.RESERVED, Status.MINED, Status.REFUSED, Status.CANCELLED}
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

UNSENT = frozenset({Status.QUEUED, Status.RESERVED, Status.SIGNED})
"""Where something must be done before the chain can do its part."""

IN_FLIGHT = frozenset({Status.BROADCAST, Status.MINED})
"""Where the chain is at work, and must be watched."""


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """
    One refund as the gateway asked for it.

    ``amount`` is a decimal string in whole tokens ("12.50"), and ``reference``
    is the gateway's own name of this refund: it is paid once, whatever
    idempotency key comes with it.
    """

    payment_session_id: str
    reference: str
    network: str
    token: str
    recipient: str
    amount: str
    reason: str | None = None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the request, so that a repeated key can be told."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Refund:
    """
    A refund from the moment it is accepted: one row, one nonce for life.

    ``amount`` is an integer in base units.  ``sender``, ``key_id``, ``nonce`` and
    ``gas_limit`` are set together, at reservation, and never change afterwards.

    ``version`` counts the changes: each is a compare-and-set on it.  ``due_at`` says
    when a worker may take it up; until then it is somebody's already.  ``attempts``
    counts what failed since the last move, and ``blocked_by`` is the last error's code.
    """

    id: str
    client: str
    idempotency_key: str
    fingerprint: str
    reference: str
    payment_session_id: str
    network: str
    chain_id: int
    token: str
    token_address: str
    decimals: int
    recipient: str
    amount: int
    reason: str | None
    status: Status
    created_at: datetime
    updated_at: datetime
    version: int = 0
    sender: str | None = None
    key_id: str | None = field(default=None, repr=False)
    nonce: int | None = None
    gas_limit: int | None = None
    tx_hash: str | None = None
    block_number: int | None = None
    block_hash: str | None = None
    failure_code: str | None = None
    failure_detail: str | None = None
    due_at: datetime = EPOCH
    attempts: int = 0
    blocked_by: str | None = None
    # Not a part of the row: only whoever reserved knows that the audit's intent to
    # sign was written then, and whoever moves the refund next must write another.
    intended: bool = field(default=False, compare=False, repr=False)

    @property
    def swept_from(self) -> str | None:
        """
        The address that this empties; None for what a gateway asked for.

        A sweep takes the way of a refund, from a former key's address to the active
        one, and counts against no limit.
        """
        return self.payment_session_id if self.client == SWEEPER else None

    @property
    def is_coin(self) -> bool:
        """Whether it pays the chain's own coin; sweeps alone do."""
        return self.swept_from is not None and self.token == COIN

    @property
    def mark(self) -> bytes:
        """
        Return 16 bytes that name what was asked for, whatever this ledger forgets.

        They follow the transfer's arguments in the calldata, where contracts do not
        look: a ledger that was restored from a backup recognises what it has paid.
        """
        name = json.dumps(["hotwallet", self.chain_id, self.client, self.reference])
        return hashlib.sha256(name.encode()).digest()[:16]

    def reservation(self) -> "Reservation":
        """
        Return what the refund was given at its reservation.

        Raises:
            ValueError: It has none; a programming error.
        """
        if self.sender is None or self.nonce is None or self.gas_limit is None:
            raise ValueError("the refund is not reserved")
        return Reservation(self.sender, self.nonce, self.gas_limit)

    def moved(
        self,
        status: Status,
        at: datetime,
        *,
        due_at: datetime | None = None,
        **changes: Any,
    ) -> Self:
        """
        Return the refund one legal step further.

        Whoever takes the step takes the next one too: until *due_at*, or for
        ``HOLD``, nobody else does.

        Raises:
            ValueError: The step is not in ``MOVES``; a programming error.
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
            **{"intended": False, **changes},
        )

    def postponed(
        self, due_at: datetime, *, attempts: int = 0, blocked_by: str | None = None
    ) -> Self:
        """Return the refund where it stands, to be taken up again at *due_at*."""
        return replace(
            self,
            version=self.version + 1,
            due_at=due_at,
            attempts=attempts,
            blocked_by=blocked_by,
            intended=False,
        )


class Reservation(NamedTuple):
    """What a refund keeps for life: who pays, with which nonce and most gas."""

    sender: str
    nonce: int
    gas_limit: int


class Kind(StrEnum):
    """
    What a transaction does with its nonce.

    A no-op sends nothing to oneself: it consumes the nonce of a refund that can
    never be paid, so that those behind it can.
    """

    TRANSFER = "transfer"
    NOOP = "noop"


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """
    Signed bytes, stored before the first of them goes to the network.

    ``attempt`` counts the transactions of one refund from 0: replacements share
    the nonce.
    """

    tx_hash: str
    refund_id: str
    attempt: int
    kind: Kind
    chain_id: int
    sender: str
    nonce: int
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    gas_limit: int
    raw: bytes = field(repr=False)
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class InFlight:
    """A refund that was sent, and every hash under which it may be mined."""

    refund: Refund
    tx_hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One line of a refund's history; versions between two lines moved nothing."""

    refund_id: str
    version: int
    status: Status
    at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Some refunds, newest first, and where to go on (``None``: the end)."""

    refunds: tuple[Refund, ...]
    next_cursor: str | None


def new_refund_id(now: datetime) -> str:
    """
    Return a fresh id that sorts by time, like a UUIDv7 (RFC 9562).

    48 bits of milliseconds, then 80 random bits, in hex behind ``rf_``.
    """
    milliseconds = int(now.timestamp() * 1000)
    return f"rf_{milliseconds:012x}{secrets.token_hex(10)}"


def is_refund_id(text: str) -> bool:
    """Say whether *text* looks like what ``new_refund_id`` returns."""
    return _REFUND_ID.fullmatch(text) is not None
