"""The delivery of one event to the webhook of its tenant."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from signer.model.row import PrimaryKey, Small


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
