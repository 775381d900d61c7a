"""Sending events to a tenant again."""

from api.console.changes.change import Change, Field, Outcome, Plan, Values, count
from api.container import Container
from signer.errors import NotFoundError
from signer.model.audit_record import Actor
from signer.webhooks.delivery_admin import MAX_DEAD


_PAGE = "/console/webhooks"

_EVENT = Field("event_id", "Event")
_TENANT = Field("tenant", "Tenant")


def _plan_event(container: Container, values: Values) -> Plan:
    delivery, event = container.delivery_admin.find(values["event_id"])
    facts = [
        ("tenant", delivery.tenant),
        ("refund", delivery.refund_id),
        ("type", "not authentic" if event is None else str(event.type)),
        ("state", str(delivery.state)),
        ("attempts", str(delivery.attempts)),
    ]
    notes = [
        "The receiver sees the same id again.",
        f"The last problem: {delivery.problem or 'none'}",
    ]
    return Plan(facts, notes)


def _replay_event(container: Container, values: Values, actor: Actor) -> Outcome:
    container.delivery_admin.replay([values["event_id"]], actor)
    return Outcome("A worker sends it now", next_step=("Webhooks", _PAGE))


def _plan_dead(container: Container, values: Values) -> Plan:
    tenant = values["tenant"]
    found = [
        each for each in container.store.webhook_backlog() if each.tenant == tenant
    ]
    dead = sum(each.dead for each in found)
    if not dead:
        raise NotFoundError("no delivery of this tenant was given up")
    notes = [
        f"{count(dead, 'delivery', 'deliveries')} given up.",
        f"They are sent again, the oldest first, at most {MAX_DEAD:,} at a time.",
        "Receivers see the same ids again.",
    ]
    return Plan(notes=notes)


def _replay_dead(container: Container, values: Values, actor: Actor) -> Outcome:
    result = container.delivery_admin.replay_dead(values["tenant"], actor)
    left = [] if result.is_complete else ["There are more: repeat it for them."]
    number = count(result.count, "delivery", "deliveries")
    return Outcome(f"{number} sent again now", left, next_step=("Webhooks", _PAGE))


REPLAY = Change(
    "replay-event",
    "Send an event again",
    "webhooks:replay",
    "POST /v1/admin/webhooks/deliveries/{event_id}/replay",
    _PAGE,
    (_EVENT,),
    _plan_event,
    _replay_event,
)

REPLAY_DEAD = Change(
    "replay-dead",
    "Send all that was given up again",
    "webhooks:replay",
    "POST /v1/admin/webhooks/replay",
    _PAGE,
    (_TENANT,),
    _plan_dead,
    _replay_dead,
)
