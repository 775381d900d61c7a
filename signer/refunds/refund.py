"""The refund: what was asked, where it stands, and which moves are legal."""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self


class Status(StrEnum):
    """Where a refund stands.  ``docs/refunds.md`` draws the picture."""

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


# A refund only moves along these.  Mined goes back when a reorganisation takes
# its block away, and signed may jump to mined when a broadcast's reply was lost.
# Broadcast follows itself whenever the same bytes are about to be sent again.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RESERVED, Status.REFUSED, Status.CANCELLED}),
    Status.RESERVED: frozenset({Status.SIGNED, Status.FAILED}),
    Status.SIGNED: frozenset({Status.BROADCAST, Status.MINED, Status.FAILED}),
    Status.BROADCAST: frozenset({Status.BROADCAST, Status.MINED, Status.FAILED}),
    Status.MINED: frozenset({Status.BROADCAST, Status.CONFIRMED, Status.FAILED}),
    Status.CONFIRMED: frozenset(),
    Status.REFUSED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.FAILED: frozenset(),
}

OPEN = frozenset(status for status in Status if not status.is_final)


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
    ``version`` counts the moves: every change is a compare-and-set on it.
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
    key_id: str | None = None
    nonce: int | None = None
    gas_limit: int | None = None
    tx_hash: str | None = None
    block_number: int | None = None
    block_hash: str | None = None
    failure_code: str | None = None
    failure_detail: str | None = None

    def moved(self, status: Status, at: datetime, **changes: Any) -> Self:
        """
        Return the refund one legal step further.

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
            **changes,
        )


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """
    Signed bytes, stored before the first of them goes to the network.

    ``attempt`` counts the transactions of one refund from 0: replacements share
    the nonce.  ``kind`` is ``transfer``, or ``noop`` for a self-transfer that
    consumes the nonce of a refund that can never be paid.
    """

    tx_hash: str
    refund_id: str
    attempt: int
    kind: str
    chain_id: int
    sender: str
    nonce: int
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    gas_limit: int
    raw: bytes
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class Move:
    """One line of a refund's history."""

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
