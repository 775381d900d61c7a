"""Rotating to another key, and failing over to a replica; both can be rehearsed."""

from collections.abc import Iterator

from api.console.changes.change import (
    REASON,
    Change,
    Facts,
    Field,
    Options,
    Outcome,
    Plan,
    Values,
    count,
)
from api.container import Container
from signer.keys.failover import FailoverResult
from signer.keys.rotation_options import AWAITING_FUNDS, RotationOptions, RotationResult
from signer.model.audit_record import Actor


_PAGE = "/console/keys"

PLANNED = "planned"
COMPROMISED = "compromised"
WITHOUT_FUNDS = "without-funds"

_KINDS: Options = {
    PLANNED: "planned: the old key finishes what it began",
    COMPROMISED: "compromised: the old key never signs again",
    WITHOUT_FUNDS: "compromised, and the new address need not have funds",
}


def _kinds(_: Container) -> Options:
    return _KINDS


_KEY = Field(
    "new_key_id",
    "New key",
    "A KMS key id, ARN or alias, or a CKA_ID in hex.",
    max_length=512,
)
_KIND = Field("kind", "Why", options=_kinds)
_REPLACED = Field(
    "active_address",
    "Address of the key to replace",
    "If another key is active, nothing is changed.",
)


def _options(values: Values, *, dry_run: bool = False) -> RotationOptions:
    return RotationOptions(
        dry_run=dry_run,
        compromised=values["kind"] != PLANNED,
        active_address=values["active_address"],
        without_funds=values["kind"] == WITHOUT_FUNDS,
    )


def _plan_rehearsal(container: Container, values: Values) -> Plan:
    return Plan(
        notes=[
            "The device signs a test with the new key.",
            "The balances of its address are read. Nothing is changed.",
        ]
    )


def _plan_rotation(container: Container, values: Values) -> Plan:
    is_compromised = values["kind"] != PLANNED
    active = container.store.active_key()
    facts: Facts = []
    notes = [
        "The new key must pass a self-test; if it fails, the old key stays active.",
        "Refunds are then paid from the new key's address.",
    ]
    if active is not None:
        facts = [("active key", active.address), ("its epoch", str(active.epoch))]
        signed = container.revocation.stranded(active.address)
        drains = "may still be mined" if is_compromised else "it finishes"
        notes.append(f"{count(len(signed), 'open refund')} of it, which {drains}.")
    needs_approval = is_compromised and container.approvals.required
    return Plan(facts, notes, needs_approval=needs_approval)


def _rehearse(container: Container, values: Values, actor: Actor) -> Outcome:
    options = _options(values, dry_run=True)
    result = container.rotation.rotate(values["new_key_id"], actor, options)
    return Outcome("The new key signs: nothing was changed", [*_describe(result)])


def _rotate(container: Container, values: Values, actor: Actor) -> Outcome:
    result = container.rotation.rotate(values["new_key_id"], actor, _options(values))
    is_active = result.status != AWAITING_FUNDS
    summary = "The new key is active" if is_active else "The new address needs funds"
    return Outcome(
        summary,
        [*_describe(result)],
        problem=None if is_active else AWAITING_FUNDS,
    )


def _describe(result: RotationResult) -> Iterator[str]:
    yield f"status: {result.status}"
    yield f"new address: {result.key.address}"
    if result.previous is not None:
        yield f"before: {result.previous.address}"
    for each in result.holdings:
        tokens = ", ".join(f"{value} {name}" for name, value in each.tokens.items())
        if each.error is None:
            yield f"{each.network}: {each.gas} for gas, {tokens}"
    for refund_id in result.stranded:
        yield f"signed by the old key, and still open: {refund_id}"
    yield from result.warnings


def _plan_failover_rehearsal(container: Container, values: Values) -> Plan:
    return Plan(notes=["The device signs a test with the replica; nothing is changed."])


def _plan_failover(container: Container, values: Values) -> Plan:
    return Plan(
        notes=[
            "The replica must pass a self-test.",
            "Address, nonces and the key's state do not change.",
        ]
    )


def _rehearse_failover(container: Container, values: Values, actor: Actor) -> Outcome:
    result = container.failover.fail_over(values["new_key_id"], actor, dry_run=True)
    return Outcome("The replica signs: nothing was changed", _moved(result))


def _fail_over(container: Container, values: Values, actor: Actor) -> Outcome:
    result = container.failover.fail_over(values["new_key_id"], actor)
    return Outcome("The replica signs from now on", _moved(result))


def _moved(result: FailoverResult) -> list[str]:
    return [
        f"status: {result.status}",
        f"address: {result.key.address}",
        *result.warnings,
    ]


_SCOPE = "keys:rotate"
_ROTATE = "POST /v1/admin/kms/rotate"
_FAILOVER = "POST /v1/admin/kms/failover"

REHEARSE_ROTATION = Change(
    "rehearse-rotation",
    "Rehearse a rotation",
    _SCOPE,
    _ROTATE,
    _PAGE,
    (_KEY, _KIND, _REPLACED),
    _plan_rehearsal,
    _rehearse,
)

ROTATE = Change(
    "rotate-key",
    "Rotate to another key",
    _SCOPE,
    _ROTATE,
    _PAGE,
    (_KEY, _KIND, _REPLACED, REASON),
    _plan_rotation,
    _rotate,
    is_danger=True,
)

REHEARSE_FAILOVER = Change(
    "rehearse-failover",
    "Rehearse a failover",
    _SCOPE,
    _FAILOVER,
    _PAGE,
    (_KEY,),
    _plan_failover_rehearsal,
    _rehearse_failover,
)

FAIL_OVER = Change(
    "fail-over",
    "Fail over to a replica",
    _SCOPE,
    _FAILOVER,
    _PAGE,
    (_KEY,),
    _plan_failover,
    _fail_over,
    is_danger=True,
)
