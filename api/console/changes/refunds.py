"""Cancelling a refund that has no nonce yet."""

import json

from api.console.changes.change import Change, Facts, Field, Outcome, Plan, Values
from api.container import Container
from signer.amounts import format_units
from signer.errors import NotFoundError
from signer.model.audit_record import Actor
from signer.model.refund import Refund, Status, is_refund_id
from signer.refunds.service import require_cancellable


_REFUND = Field("refund_id", "Refund")


def _plan(container: Container, values: Values) -> Plan:
    refund = _find(container, values)
    require_cancellable(refund)
    amount = format_units(refund.amount, refund.decimals)
    facts: Facts = [
        ("amount", f"{amount} {refund.token}"),
        ("recipient", refund.recipient),
        ("network", refund.network),
        ("tenant", json.dumps(refund.tenant, ensure_ascii=False)),
        ("reference", json.dumps(refund.reference, ensure_ascii=False)),
    ]
    notes = [
        f"It is {refund.status}. A worker cancels it, unless it gets a nonce before.",
        "The tenant is informed, and requests another refund if it wants to pay.",
    ]
    return Plan(facts, notes)


def _cancel(container: Container, values: Values, actor: Actor) -> Outcome:
    found = _find(container, values)
    service = container.refunds
    refund = service.request_cancellation(found.tenant, found.id, actor)
    require_cancellable(refund)
    step = ("The refund", f"/console/refunds/{refund.id}")
    if refund.status is Status.CANCELLED:
        return Outcome("It was cancelled before", next_step=step)
    return Outcome("A worker cancels it within seconds", next_step=step)


def _find(container: Container, values: Values) -> Refund:
    refund_id = values["refund_id"]
    found = container.store.get(refund_id) if is_refund_id(refund_id) else None
    if found is None:
        raise NotFoundError("there is no such refund")
    return found


CANCEL = Change(
    "cancel-refund",
    "Cancel a refund",
    "refunds:write",
    "POST /v1/refunds/{refund_id}/cancel",
    "/console/refunds",
    (_REFUND,),
    _plan,
    _cancel,
    is_danger=True,
)
