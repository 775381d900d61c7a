"""Cancelling a refund that has no nonce yet, and sending events to its tenant again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from api.actions.action import Action, Answer, Field, FieldKind, Plan, Values, count
from signer.audit.actions import AuditAction
from signer.model.audit_record import Actor


if TYPE_CHECKING:
    from api.container import Container
    from signer.model.refund import Refund


_REFUND = Field("refund_id", "The refund.", kind=FieldKind.REFUND, argument="REFUND_ID")


def _find(container: Container, values: Values) -> Refund:
    from signer.errors import NotFoundError
    from signer.model.refund import is_refund_id

    refund_id = values["refund_id"]
    found = container.store.get(refund_id) if is_refund_id(refund_id) else None
    if found is None:
        raise NotFoundError("there is no such refund")
    return found


def _plan_cancel(container: Container, values: Values) -> Plan:
    from signer.amounts import format_units
    from signer.refunds.service import require_cancellable

    refund = _find(container, values)
    require_cancellable(refund)
    amount = format_units(refund.amount, refund.decimals)
    facts = [
        ("amount", f"{amount} {refund.token}"),
        ("recipient", refund.recipient),
        ("network", refund.network),
        ("tenant", json.dumps(refund.tenant, ensure_ascii=False)),
        ("reference", json.dumps(refund.reference, ensure_ascii=False)),
    ]
    return Plan([*facts, ("status", str(refund.status))])


def _cancel(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.refunds import RefundDocument
    from signer.model.refund import Status
    from signer.refunds.service import require_cancellable

    found = _find(container, values)
    service = container.refunds
    refund = service.request_cancellation(found.tenant, found.id, actor)
    require_cancellable(refund)
    is_done = refund.status is Status.CANCELLED
    return Answer(
        RefundDocument.of(refund).dump(),
        [f"{refund.id}: {'cancelled' if is_done else 'a worker cancels it'}"],
        is_pending=not is_done,
        next_step=("The refund", f"/console/refunds/{refund.id}"),
    )


CANCEL = Action(
    name="cancel-refund",
    title="Cancel a refund",
    about="""
    Cancel a refund of any tenant that has no nonce yet.

    A worker cancels it within seconds, unless it gets a nonce or is paid before. The
    tenant is informed. The request stays in force until then, and can be repeated.
    """,
    scope="refunds:write",
    audit=AuditAction.REFUND_CANCEL,
    path="/v1/admin/refunds/{refund_id}/cancel",
    operation="cancelAnyRefund",
    command="refund cancel",
    page="/console/refunds",
    fields=(_REFUND,),
    plan=_plan_cancel,
    make=_cancel,
    is_danger=True,
    answers={
        200: "It was cancelled before.",
        202: "A worker cancels it, unless it is paid already.",
    },
    document="api.views.refunds:RefundDocument",
    problems=frozenset({"not-found", "not-cancellable", "tenant-blocked"}),
)


_WEBHOOKS = "/console/webhooks"

_EVENT = Field(
    "event_id",
    "The event's id.",
    kind=FieldKind.EVENT,
    label="Event",
    argument="EVENT_ID",
    is_many=True,
)
_TENANT = Field(
    "tenant",
    "The tenant's name.",
    kind=FieldKind.NAME,
    argument="TENANT",
    example="shop",
)


def _event_ids(values: Values) -> Sequence[str]:
    """Return the ids: a command takes several."""
    given = values["event_id"]
    return [given] if isinstance(given, str) else given


def _plan_replay(container: Container, values: Values) -> Plan:
    facts: list[tuple[str, str]] = []
    notes = []
    for event_id in _event_ids(values):
        delivery, event = container.delivery_admin.find(event_id)
        facts += [
            ("tenant", delivery.tenant),
            ("refund", delivery.refund_id),
            ("type", "not authentic" if event is None else str(event.type)),
            ("state", str(delivery.state)),
            ("attempts", str(delivery.attempts)),
        ]
        notes.append(f"The last problem: {delivery.problem or 'none'}")
    return Plan(facts, notes)


def _replay(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import delivery_of
    from signer.webhooks.delivery_admin import NO_EVENT

    admin, event_ids = container.delivery_admin, _event_ids(values)
    done = admin.replay(event_ids, actor)
    lines = [f"{each}: due now" for each in done.replayed]
    lines += [f"{each}: {NO_EVENT}" for each in done.missing]
    document = {"replayed": list(done.replayed), "missing": list(done.missing)}
    if isinstance(values["event_id"], str):
        document = delivery_of(*admin.find(values["event_id"])).dump()
    return Answer(
        document,
        lines,
        ok=not done.missing,
        next_step=("Webhooks", _WEBHOOKS),
    )


REPLAY = Action(
    name="replay-event",
    title="Send an event again",
    about="""
    Deliver an event again, also one that was given up or has arrived.

    A receiver sees the same id again. It can be repeated.
    """,
    more_help="""
    Exits with 1 if an event does not exist, or its tenant has no webhook. Both the
    request and its outcome are audited.
    """,
    scope="webhooks:replay",
    audit=AuditAction.WEBHOOK_REPLAY,
    path="/v1/admin/webhooks/deliveries/{event_id}/replay",
    operation="replayEvent",
    command="webhooks replay",
    page=_WEBHOOKS,
    fields=(_EVENT,),
    plan=_plan_replay,
    asks=False,
    make=_replay,
    answers={200: "The delivery, which is due."},
    document="api.views.administration:DeliveryDocument",
)


def _plan_dead(container: Container, values: Values) -> Plan:
    from signer.errors import NotFoundError

    tenant, backlog = values["tenant"], container.store.webhook_backlog()
    dead = sum(each.dead for each in backlog if each.tenant == tenant)
    if not dead:
        raise NotFoundError("no delivery of this tenant was given up")
    return Plan(notes=[f"{count(dead, 'delivery', 'deliveries')} given up."])


def _replay_dead(container: Container, values: Values, actor: Actor) -> Answer:
    tenant = values["tenant"]
    result = container.delivery_admin.replay_dead(tenant, actor)
    left = [] if result.is_complete else ["There are more: repeat it for them."]
    return Answer(
        {"tenant": tenant, "count": result.count, "complete": result.is_complete},
        [f"{tenant}: {result.count} due now", *left],
        next_step=("Webhooks", _WEBHOOKS),
    )


REPLAY_DEAD = Action(
    name="replay-dead",
    title="Send all that was given up again",
    about="""
    Deliver again what was given up of one tenant, the oldest first.

    Receivers see the same ids again. The API does up to 1,000 deliveries at a time:
    repeat the request until `complete` is true.
    """,
    scope="webhooks:replay",
    audit=AuditAction.WEBHOOK_REPLAY,
    path="/v1/admin/webhooks/replay",
    operation="replayDead",
    command="webhooks replay-dead",
    page=_WEBHOOKS,
    fields=(_TENANT,),
    plan=_plan_dead,
    asks=False,
    make=_replay_dead,
    answers={200: "How many are due again."},
    document="api.views.administration:DeadReplayDocument",
    body="DeadReplayRequest",
)
