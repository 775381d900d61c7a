"""Events as JSON: what a webhook receives, and what ``/v1/events`` lists."""

from typing import Any

from api.views.refunds import refund_document, timestamp
from signer.model.event import Event
from signer.model.refund import Refund


def event_document(event: Event, refund: Refund) -> dict[str, Any]:
    """Return *event* of *refund* as JSON for its tenant."""
    return {
        "id": event.id,
        "type": str(event.type),
        "timestamp": timestamp(event.at),
        "sequence": event.sequence,
        "data": refund_document(event.refund_then(refund)),
    }
