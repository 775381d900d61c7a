"""The events that a tenant is informed of: one for each change that it acts on."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Self

from signer.config.tenants import EventType
from signer.model.refund import Refund, Status
from signer.model.sealed_fields import PrimaryKey, Small, Unprotected, changed, sealed
from signer.model.transaction import EPOCH, Transaction, TransactionStatus


# The other statuses are steps between two of these.
TYPES: Mapping[Status, EventType] = {
    Status.QUEUED: EventType.ACCEPTED,
    Status.AWAITING_APPROVAL: EventType.AWAITING_APPROVAL,
    Status.BROADCAST: EventType.BROADCAST,
    Status.CONFIRMED: EventType.CONFIRMED,
    Status.FAILED: EventType.FAILED,
    Status.REFUSED: EventType.REFUSED,
    Status.CANCELLED: EventType.CANCELLED,
}

_SENT_BEFORE = frozenset({Status.BROADCAST, Status.MINED})


@sealed("event")
@dataclass(frozen=True)
class Event:
    """
    A refund as it was after one change, without what never changes.

    ``sequence`` is its place in the order of all events; None until a worker assigns
    it.
    """

    id: PrimaryKey[str]
    tenant: str
    refund_id: str
    version: Small
    status: Status
    at: datetime
    sender: str | None = None
    nonce: int | None = None
    tx_hash: str | None = None
    block_number: int | None = None
    failure_code: str | None = None
    failure_detail: str | None = None
    mac: str | None = field(default=None, compare=False, repr=False)
    sequence: Annotated[
        int | None, Unprotected("a worker assigns it once; it is a place in an order")
    ] = None

    @classmethod
    def of(cls, before: Refund | None, after: Refund) -> Self | None:
        """
        Return the event of a change; None if its tenant has nothing to learn from it.

        *before* is None for a new refund.  Sweeps and fillers have no events.  A
        reorganisation, which takes a mined refund back to broadcast, is none either.
        """
        status = after.status
        if status not in TYPES or after.bound_sender is not None:
            return None
        if before is not None and (
            (was := before.status) is status
            or (status is Status.BROADCAST and was in _SENT_BEFORE)
        ):
            return None
        is_sent = after.nonce is not None
        return cls(
            new_event_id(after.moving.updated_at),
            after.tenant,
            after.id,
            after.revision,
            status,
            after.moving.updated_at,
            after.sender,
            after.nonce,
            after.tx_hash if is_sent else None,
            after.block_number if is_sent else None,
            after.failure_code,
            _storable(after.failure_detail),
        )

    @property
    def type(self) -> EventType:
        return TYPES[self.status]

    def is_about(self, refund: Refund) -> bool:
        """Return whether the event is one of *refund*, under the same tenant."""
        return (self.refund_id, self.tenant) == (refund.id, refund.tenant)

    def refund_then(self, refund: Refund) -> Refund:
        """Return *refund*, which may have changed since, as it was at this event."""
        asked_at = refund.cancel_requested_at
        if self.sender is not None and self.nonce is not None:
            transaction = Transaction.draft(
                [refund],
                self.at,
                sender=self.sender,
                nonce=self.nonce,
                key_id="",
                gas_limit=0,
                status=TransactionStatus(self.status),
                tx_hash=self.tx_hash,
                block_number=self.block_number,
            )
            refund = refund.inside(transaction)
        else:
            refund = changed(refund, sender=None, nonce=None, transaction=None)
        return changed(
            refund,
            state=self.status.state,
            updated_at=self.at,
            failure_code=self.failure_code,
            failure_detail=self.failure_detail,
            cancel_requested_at=asked_at if asked_at and asked_at <= self.at else None,
        )


def _storable(text: str | None) -> str | None:
    """Return *text* as the refund's row has it: the MAC covers what is stored."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def sequence_at(moment: datetime) -> int:
    """Return the sequence number of an event that gets it at *moment*: microseconds."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def new_event_id(now: datetime) -> str:
    """
    Return a fresh id that sorts by time, like a UUIDv7 (RFC 9562).

    ``evt_``, then 48 bits of milliseconds and 80 random bits, in hex.
    """
    milliseconds = int(now.timestamp() * 1000)
    return f"evt_{milliseconds:012x}{secrets.token_hex(10)}"


NOT_AUTHENTIC = "not-authentic"
"""The problem of a delivery whose event or refund another program changed."""


class DeliveryState(StrEnum):
    """How far a delivery is."""

    PENDING = "pending"
    """It was not accepted yet, and is tried again when it is due."""

    DELIVERED = "delivered"
    """The receiver answered with a status from 200 to 299."""

    DEAD = "dead"
    """Every attempt failed; only an operator starts it again."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    One row: an event that a webhook must receive.

    ``version`` counts the changes: each is a compare-and-set on it.  A worker may claim
    a pending delivery from ``due_at`` on; a claim sets it to when the claim expires.
    ``attempts`` counts the requests that had an outcome, and ``problem`` says why the
    last one failed.
    """

    event_id: PrimaryKey[str]
    tenant: str
    refund_id: str
    sequence: int
    state: DeliveryState
    attempts: Small
    due_at: datetime
    problem: str | None
    updated_at: datetime
    version: Small
