"""Revoking a former key as compromised, and undoing that."""

from collections.abc import Sequence

from api.console.changes.change import (
    REASON,
    Change,
    Facts,
    Field,
    Outcome,
    Plan,
    Values,
    count,
)
from api.console.rendering import format_time
from api.container import Container
from signer.model.audit_record import Actor
from signer.model.key import Key


_PAGE = "/console/keys"
_SCOPE = "keys:rotate"

_ADDRESS = Field("address", "Address of the key")


def _plan_revocation(container: Container, values: Values) -> Plan:
    key, signed = container.revocation.preview(values["address"])
    notes = [
        "A revoked key never signs again; within 24 hours it can be reinstated.",
        f"{count(len(signed), 'open refund')} signed by it, which may be mined: check:",
        *signed,
    ]
    is_new = key.revoked_at is None
    needs_approval = is_new and container.approvals.required
    return Plan(_key_facts(key), notes, needs_approval=needs_approval)


def _plan_reinstatement(container: Container, values: Values) -> Plan:
    key, signed = container.reinstatement.preview(values["address"])
    notes = [
        "The key may sign again: it finishes the refunds that it had signed.",
        "It does not become the active key.",
        f"{count(len(signed), 'open refund')} signed by it.",
        *signed,
    ]
    is_revoked = key.revoked_at is not None
    needs_approval = is_revoked and container.approvals.required
    return Plan(_key_facts(key), notes, needs_approval=needs_approval)


def _key_facts(key: Key) -> Facts:
    facts = [("address", key.address), ("state", str(key.state))]
    facts.append(("epoch", "-" if key.epoch is None else str(key.epoch)))
    if key.revoked_at is not None:
        facts.append(("revoked at", format_time(key.revoked_at)))
    return facts


def _revoke(container: Container, values: Values, actor: Actor) -> Outcome:
    key, signed = container.revocation.revoke(values["address"], actor)
    return Outcome(f"The key {key.address} is revoked", _open(signed))


def _reinstate(container: Container, values: Values, actor: Actor) -> Outcome:
    address, reason = values["address"], values["reason"]
    key, signed = container.reinstatement.reinstate(address, reason, actor)
    return Outcome(f"The key {key.address} is {key.state}", _open(signed))


def _open(refund_ids: Sequence[str]) -> Sequence[str]:
    return [f"signed by it, and still open: {each}" for each in refund_ids]


REVOKE = Change(
    "revoke-key",
    "Revoke a former key",
    _SCOPE,
    "hotwallet keys revoke",
    _PAGE,
    (_ADDRESS, REASON),
    _plan_revocation,
    _revoke,
    is_danger=True,
)

REINSTATE = Change(
    "reinstate-key",
    "Reinstate a revoked key",
    _SCOPE,
    "POST /v1/admin/keys/{address}/reinstate",
    _PAGE,
    (_ADDRESS, REASON),
    _plan_reinstatement,
    _reinstate,
)
