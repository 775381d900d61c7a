"""The types of events that tenants are informed of."""

from enum import StrEnum


class EventType(StrEnum):
    """What happened to a refund; ``docs/how-to/webhooks.md`` explains each."""

    ACCEPTED = "refund.accepted"
    AWAITING_APPROVAL = "refund.awaiting_approval"
    BROADCAST = "refund.broadcast"
    CONFIRMED = "refund.confirmed"
    FAILED = "refund.failed"
    REFUSED = "refund.refused"
    CANCELLED = "refund.cancelled"
