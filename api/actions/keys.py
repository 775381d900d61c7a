"""Changing keys: rotation, failover, revocation, reinstatement and sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from api.actions.action import (
    REQUIRED_REASON,
    Action,
    Answer,
    Field,
    FieldKind,
    Plan,
    Proposed,
    Values,
    count,
)
from signer.audit.actions import AuditAction
from signer.model.audit_record import Actor


if TYPE_CHECKING:
    from api.container import Container
    from signer.keys.rotation import RotationResult
    from signer.model.key import Key
    from signer.refunds.sweep import SweepItem


_PAGE = "/console/keys"
_SCOPE = "keys:rotate"

_NEW_KEY = Field(
    "key_id",
    "A KMS key id, ARN or alias, resolved once; with PKCS#11 a `CKA_ID` in hex.",
    kind=FieldKind.KEY,
    label="New key",
    json="newKeyId",
    argument="NEW_KEY_ID",
    max_length=512,
    example="1234abcd-12ab-34cd-56ef-1234567890ab",
)
_REPLICA = replace(
    _NEW_KEY,
    about="The ARN of a multi-Region key's replica in another region.",
    label="Replica",
    example=(
        "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    ),
)
_COMPROMISED = Field(
    "compromised",
    "Revoke the old key instead of letting it finish: it signs nothing. Needs the"
    " address of the key to replace, and funds on the new address.",
    kind=FieldKind.FLAG,
    label="The old key is compromised",
    is_required=False,
)
_REPLACED = Field(
    "active_address",
    "Address of the key to replace; if another key is active, nothing changes.",
    kind=FieldKind.ADDRESS,
    label="Address of the key to replace",
    json="activeAddress",
    option="--from",
    is_required=False,
    is_required_in_form=True,
)
_WITHOUT_FUNDS = Field(
    "without_funds",
    "With a compromised key: do not wait for funds on the new address.",
    kind=FieldKind.FLAG,
    label="The new address need not have funds",
    json="withoutFunds",
    is_required=False,
)
_ADDRESS = Field(
    "address",
    "The key's address, in lower case or with its EIP-55 checksum.",
    kind=FieldKind.ADDRESS,
    label="Address of the key",
    argument="ADDRESS",
)


def _plan_rotation(container: Container, values: Values) -> Plan:
    active = container.store.active_key()
    facts: list[tuple[str, str]] = []
    notes = []
    if active is not None:
        facts = [("active key", active.address), ("its epoch", str(active.epoch))]
        signed = container.revocation.stranded(active.address)
        drains = "may still be mined" if values["compromised"] else "it finishes"
        notes.append(f"{count(len(signed), 'open refund')} of it, which {drains}.")
    needs_approval = bool(values["compromised"]) and container.approvals.required
    return Plan(facts, notes, needs_approval=needs_approval)


def _rotate(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import RotationDocument
    from signer.keys.rotation import AWAITING_FUNDS, WOULD_AWAIT_FUNDS, RotationOptions

    options = RotationOptions(
        dry_run=bool(values.get("dry_run")),
        compromised=bool(values["compromised"]),
        active_address=values["active_address"],
        without_funds=bool(values["without_funds"]),
        will_retry=bool(values.get("will_retry")),
    )
    result = container.rotation.rotate(values["key_id"], actor, options)
    if options.compromised and result.previous is not None and not options.dry_run:
        from signer.model.key import find_key

        previous = find_key(container.store.keys(), result.previous.address)
        steps = find_revoked_operators(container, filter(None, [previous]))
        result = replace(result, warnings=(*result.warnings, *steps))
    waits = result.status == AWAITING_FUNDS
    document = RotationDocument.of(result).dump()
    return Answer(
        document,
        [*_format_rotation(result, document)],
        ok=result.status not in {AWAITING_FUNDS, WOULD_AWAIT_FUNDS},
        is_pending=waits,
        problem=AWAITING_FUNDS if waits else None,
    )


def find_revoked_operators(container: Container, keys: Iterable[Key]) -> list[str]:
    """Return what to do about those of *keys* that were revoked and may pay."""
    from signer.model.key import KeyState

    revoked = [key for key in keys if key.state is KeyState.BLOCKED]
    if not revoked:
        return []  # No node is asked.
    found = container.vault_operators.revoked(revoked)
    return [each.problem.message for each in found]


def _format_rotation(
    result: RotationResult, document: Mapping[str, Any]
) -> Iterator[str]:
    yield f"{result.status}: {document['keyId']} {document['address']}"
    if result.previous is not None:
        yield f"  before: {document['previousKeyId']} {document['previousAddress']}"
    for holding in result.holdings:
        tokens = ", ".join(f"{value} {name}" for name, value in holding.tokens.items())
        if holding.error is None:
            yield f"  {holding.network}: {holding.gas} for gas, {tokens}"
    for refund_id in result.stranded:
        yield f"  signed by the old key, and still open: {refund_id}"
    for warning in result.warnings:
        yield f"  warning: {warning}"


def _rotation_in_words(facts: Mapping[str, Any]) -> str:
    funds = ", also without funds there" if facts["without_funds"] else ""
    return (
        f"revoke the key of {facts['compromised_key_address']} as compromised, and pay"
        f" from {facts['key_address']}{funds}"
    )


def _rotation_texts(facts: Mapping[str, Any], _: Mapping[int, str]) -> dict[str, str]:
    # The proposal has only the first characters of the new key's id.
    return {
        "compromised": "yes",
        "without_funds": "yes" if facts["without_funds"] else "",
        "active_address": facts["compromised_key_address"],
    }


_CHANGES = frozenset({"conflict", "rotation-in-progress"})

ROTATE = Action(
    name="rotate-key",
    title="Rotate to another key",
    about="""
    Make another key the active one, on all hosts, after it has signed a self-test.

    If the self-test fails, or a vault does not let the new key pay, the old key stays
    active. A new key has a new address, which must be funded. Repeating it is safe.
    """,
    more_help="""
    NEW_KEY_ID is a key id, ARN or alias of AWS KMS, a CKA_ID in hex, or the id that
    another backend uses. Exits with 1 if the key is not active afterwards (with
    --dry-run: would not be).

    Example: hotwallet keys rotate alias/refunds-2 --dry-run --wait 600
    """,
    scope=_SCOPE,
    audit=AuditAction.KEY_ROTATE,
    path="/v1/admin/kms/rotate",
    operation="rotateKey",
    command="keys rotate",
    page=_PAGE,
    fields=(_NEW_KEY, _COMPROMISED, _REPLACED, _WITHOUT_FUNDS),
    plan=_plan_rotation,
    make=_rotate,
    has_dry_run=True,
    rehearsal=("rehearse-rotation", "Rehearse a rotation"),
    proposed=Proposed(AuditAction.KEY_ROTATE, _rotation_in_words, _rotation_texts),
    # A planned rotation needs no approval.
    needs_token=lambda values: bool(values["compromised"]),
    needs_device=True,
    is_danger=True,
    answers={
        200: "The key is active, or would be.",
        202: "The old key signs until the new address has funds: repeat then.",
    },
    document="api.views.administration:RotationDocument",
    body="RotationRequest",
    rules={
        "allOf": [
            {
                "if": {"required": [name], "properties": {name: {"const": True}}},
                "then": {"required": ["compromised", "activeAddress"]}
                | {"properties": {"compromised": {"const": True}}},
            }
            for name in ("compromised", "withoutFunds")
        ]
    },
    problems=_CHANGES | {"vault-operator-missing", "chain-unavailable"},
)


def _fail_over(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import FailoverDocument

    failover, dry_run = container.failover, bool(values.get("dry_run"))
    result = failover.fail_over(values["key_id"], actor, dry_run=dry_run)
    document = FailoverDocument.of(result).dump()
    lines = [
        f"{document['status']}: {document['keyId']} {document['address']}",
        f"  before: {document['previousKeyId']}; the key is {document['state']}",
        *(f"  warning: {warning}" for warning in result.warnings),
    ]
    return Answer(document, lines)


FAIL_OVER = Action(
    name="fail-over",
    title="Fail over to a replica",
    about="""
    Sign with the replica of a key in another region.

    The replica must pass a self-test first. Address, nonces and the key's state do not
    change, since the replica has the same key material.
    """,
    more_help="""
    Example: hotwallet keys failover arn:aws:kms:eu-west-1:111122223333:key/mrk-...
    """,
    scope=_SCOPE,
    audit=AuditAction.KEY_FAILOVER,
    path="/v1/admin/kms/failover",
    operation="failOverKey",
    command="keys failover",
    page=_PAGE,
    fields=(_REPLICA,),
    make=_fail_over,
    has_dry_run=True,
    rehearsal=("rehearse-failover", "Rehearse a failover"),
    needs_device=True,
    is_danger=True,
    answers={200: "The key is there, or was."},
    document="api.views.administration:FailoverDocument",
    body="FailoverRequest",
    problems=_CHANGES | {"not-found"},
)


def _key_facts(key: Key) -> list[tuple[str, str]]:
    from api.views.document import format_time

    facts = [("address", key.address), ("state", str(key.state))]
    facts.append(("epoch", "-" if key.epoch is None else str(key.epoch)))
    if key.revoked_at is not None:
        facts.append(("revoked at", format_time(key.revoked_at)))
    return facts


def _plan_revocation(container: Container, values: Values) -> Plan:
    key, signed = container.revocation.preview(values["address"])
    needs_approval = key.revoked_at is None and container.approvals.required
    return Plan(_key_facts(key), _signed_by(signed), needs_approval=needs_approval)


def _signed_by(refund_ids: Sequence[str]) -> list[str]:
    return [f"{count(len(refund_ids), 'open refund')} signed by it.", *refund_ids]


def _revoke(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import RevokedKeyDocument

    revocation, address = container.revocation, values["address"]
    if values.get("dry_run"):
        (key, signed), status = revocation.preview(address), "would be revoked"
    else:
        key, signed = revocation.revoke(address, actor)
        status = str(key.state)
    steps = find_revoked_operators(container, [key])
    extra = {"strandedRefunds": signed, "nextSteps": steps}
    document = RevokedKeyDocument.of(key, **extra).dump()
    lines = [f"  signed by the old key, and still open: {each}" for each in signed]
    lines += [f"  next: {each}" for each in steps]
    return Answer(document, [f"{status}: {key.address}", *lines])


def _key_texts(facts: Mapping[str, Any], _: Mapping[int, str]) -> dict[str, str]:
    return {"address": facts["key_address"]}


REVOKE = Action(
    name="revoke-key",
    title="Revoke a former key",
    about="""
    Block a former key as compromised: it signs nothing, unless it is reinstated.

    Refunds that it has signed may still be mined; they are listed for you to check.
    Refunds that it has not signed are paid by the active key. To revoke the active key,
    rotate to another key as compromised.
    """,
    scope=_SCOPE,
    audit=AuditAction.KEY_REVOKE,
    path="/v1/admin/keys/{address}/revoke",
    operation="revokeKey",
    command="keys revoke",
    page=_PAGE,
    fields=(_ADDRESS,),
    plan=_plan_revocation,
    make=_revoke,
    has_dry_run=True,
    proposed=Proposed(
        AuditAction.KEY_REVOKE,
        lambda facts: f"revoke the former key of {facts['key_address']} as compromised",
        _key_texts,
    ),
    needs_token=lambda _: True,
    needs_device=True,
    is_danger=True,
    answers={200: "The key."},
    document="api.views.administration:RevokedKeyDocument",
    problems=_CHANGES | {"not-found"},
)


def _plan_reinstatement(container: Container, values: Values) -> Plan:
    key, signed = container.revocation.preview_reinstatement(values["address"])
    needs_approval = key.revoked_at is not None and container.approvals.required
    return Plan(_key_facts(key), _signed_by(signed), needs_approval=needs_approval)


def _reinstate(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import ReinstatedKeyDocument

    revocation, address = container.revocation, values["address"]
    if values.get("dry_run"):
        key, signed = revocation.preview_reinstatement(address)
        status = "would be reinstated"
    else:
        key, signed = revocation.reinstate(address, actor)
        status = str(key.state)
    lines = [f"  signed by it, and still open: {each}" for each in signed]
    document = ReinstatedKeyDocument.of(key, openRefunds=signed).dump()
    return Answer(document, [f"{status}: {key.address}", *lines])


REINSTATE = Action(
    name="reinstate-key",
    title="Reinstate a revoked key",
    about="""
    Undo the revocation of a key, which was a mistake, within 24 hours.

    The key finishes the refunds that it had signed, as after a planned rotation; they
    are listed. It does not become the active key. Repeating it is safe.
    """,
    scope=_SCOPE,
    audit=AuditAction.KEY_REINSTATE,
    path="/v1/admin/keys/{address}/reinstate",
    operation="reinstateKey",
    command="keys reinstate",
    page=_PAGE,
    fields=(_ADDRESS,),
    reason=REQUIRED_REASON,
    plan=_plan_reinstatement,
    make=_reinstate,
    has_dry_run=True,
    proposed=Proposed(
        AuditAction.KEY_REINSTATE,
        lambda facts: (
            f"reinstate the key of {facts['key_address']}, which was revoked at"
            f" {facts['revoked_at']}"
        ),
        _key_texts,
    ),
    needs_token=lambda _: True,
    needs_device=True,
    answers={200: "The key."},
    document="api.views.administration:ReinstatedKeyDocument",
    problems=_CHANGES | {"not-found"},
)


def _plan_sweep(container: Container, values: Values) -> Plan:
    items = container.sweeper.plan(values["address"])
    return Plan([("to", container.ring.active().key.address)], [*_format_sweep(items)])


def _sweep(container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import AssetDocument

    sweeper, address = container.sweeper, values["address"]
    plans = values.get("dry_run")
    items = sweeper.plan(address) if plans else sweeper.sweep(address, actor)
    documents = [AssetDocument.of(item).dump() for item in items]
    all_moving = all(item.refund is not None for item in items)
    return Answer(documents, [*_format_sweep(items)], ok=all_moving)


def _format_sweep(items: Sequence[SweepItem]) -> Iterator[str]:
    if not items:
        yield "nothing is left there"
    for item in items:
        state = "would be moved"
        if item.waits_for is not None:
            state = f"waits for {item.waits_for}"
        if item.refund is not None:
            state = f"{item.refund.status} as {item.refund.id}"
        yield f"{item.network}: {item.display_amount} {item.symbol}: {state}"


SWEEP = Action(
    name="sweep-key",
    title="Sweep a former key",
    about="""
    Move all funds of a former key's address to the active key's address; only the coin
    on a network with a vault.

    Tokens go first, since moving them costs gas. When those transfers are confirmed,
    repeat it to move the network's coin. A worker sends the transfers like refunds.
    Doing it twice does not move anything twice.
    """,
    more_help="""
    `hotwallet refund explain ID` shows the progress of a transfer. Exits with 1 while
    ADDRESS has funds that no transfer moves yet.
    """,
    scope=_SCOPE,
    audit=AuditAction.KEY_SWEEP,
    path="/v1/admin/keys/{address}/sweep",
    operation="sweepKey",
    command="keys sweep",
    page=_PAGE,
    fields=(_ADDRESS,),
    plan=_plan_sweep,
    make=_sweep,
    has_dry_run=True,
    needs_device=True,
    is_danger=True,
    answers={200: "What is moved, and what waits."},
    document="api.views.administration:SweepDocument",
    collection="assets",
    problems=frozenset(
        {"conflict", "chain-unavailable", "key-unusable", "not-found", "key-not-found"}
    ),
)
