"""Deliveries of events to webhooks, as JSON."""

from typing import Any

from api.views.document import timestamp
from signer.model.delivery import Delivery
from signer.model.event import Event


def delivery_document(delivery: Delivery, event: Event | None) -> dict[str, Any]:
    """Return a delivery as JSON; *event* is None if it is not authentic."""
    return {
        "id": delivery.event_id,
        "type": None if event is None else str(event.type),
        "tenant": delivery.tenant,
        "refund": delivery.refund_id,
        "state": str(delivery.state),
        "attempts": delivery.attempts,
        "problem": delivery.problem,
        "dueAt": timestamp(delivery.due_at),
        "updatedAt": timestamp(delivery.updated_at),
        "authentic": event is not None,
    }
