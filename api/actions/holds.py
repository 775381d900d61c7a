"""Stopping and resuming signatures, and blocking tenants."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from api.actions.action import (
    EVERY,
    REQUIRED_REASON,
    Action,
    Answer,
    Field,
    FieldKind,
    Plan,
    Proposed,
    Texts,
    Values,
)
from signer.audit.actions import AuditAction
from signer.model.audit_record import Actor
from signer.model.hold import EVERYTHING, Hold
from signer.model.refund import COIN


if TYPE_CHECKING:
    from api.container import Container
    from signer.refunds.hold_admin import StopResult


CHAIN = "chain:"
"""What the value of a chain begins with that the networks file lacks."""

_OF_NO_NETWORK = re.compile(CHAIN + r"(-?[0-9]{1,19})")

_PAGE = "/console/stops"


def scope_of(chain_id: int, names: Mapping[int, str]) -> str:
    if chain_id == EVERYTHING:
        return EVERY
    return names.get(chain_id, f"{CHAIN}{chain_id}")


def scopes(container: Container) -> Texts:
    """Return everything that can be stopped or is stopped."""
    holds = container.holds
    names = holds.names()
    options = {EVERY: "every network"}
    options |= {name: f"{name} (chain {id_})" for id_, name in names.items()}
    for stop in holds.stops():
        value = scope_of(stop.chain_id, names)
        options.setdefault(value, f"chain {stop.chain_id}, of no network")
    return options


_NETWORK = Field(
    "network",
    "The network's name; without it, everything.",
    kind=FieldKind.NAME,
    is_required=False,
    choices=scopes,
    example="polygon",
)


def tokens(container: Container) -> Texts:
    """Return the tokens that can be stopped; the API takes any contract's address."""
    known = {name for each in container.networks.values() for name in each.tokens}
    held = {stop.token for stop in container.holds.stops() if stop.token}
    options = {EVERY: "every token", COIN: COIN}
    return options | {each: each for each in sorted(known) + sorted(held)}


_TOKEN = Field(
    "asset",  # Forms of the console have a field `token`.
    "A token of the network: its name, `coin`, or the address of a contract. Without"
    " it, all of them.",
    label="Token",
    json="token",
    option="--token",
    is_required=False,
    choices=tokens,
    example="USDC",
)


def _target(values: Values) -> dict[str, Any]:
    """Return what is stopped, as ``Holds`` takes it."""
    network, token = values["network"], values["asset"]
    chain = _OF_NO_NETWORK.fullmatch(network or "")
    if chain is not None:
        return {"network": None, "chain_id": int(chain[1]), "token": token}
    # Other text is a network, which must not become everything.
    return {"network": network, "token": token}


def _find_stop(container: Container, values: Values) -> Hold | None:
    name = container.holds.name_of(**_target(values))
    return next((each for each in container.holds.stops() if each.name == name), None)


def _plan_stop(container: Container, values: Values) -> Plan:
    from api.views.administration import describe_stop

    found, notes = _find_stop(container, values), []
    if found is not None:
        notes.append(describe_stop(found, container.holds.names()))
    if container.approvals.required:
        notes.append("To resume takes two administrators.")
    # No facts: a stop must not fail because another administrator was faster.
    return Plan(notes=notes)


def _plan_resume(container: Container, values: Values) -> Plan:
    from api.views.document import format_time

    stop = _find_stop(container, values)
    if stop is None:
        return Plan(notes=["Nothing is stopped there: nothing will change."])
    if not stop.is_authentic:
        return Plan(notes=["Another program changed this stop: stop it again first."])
    facts = [
        ("stopped since", format_time(stop.at)),
        ("stopped by", stop.requested_by),
        ("reason of the stop", stop.reason),
        ("version of the stop", str(stop.version)),
    ]
    return Plan(facts, needs_approval=container.approvals.required)


def _stop(container: Container, values: Values, actor: Actor) -> Answer:
    result = container.holds.stop(actor=actor, **_target(values))
    return _stop_status(container, values, result, ("stopped", "already-stopped"))


def _resume(container: Container, values: Values, actor: Actor) -> Answer:
    target = _target(values)
    result = container.holds.resume(actor=actor, **target)
    return _stop_status(container, values, result, ("resumed", "not-stopped"))


def _stop_status(
    container: Container, values: Values, result: StopResult, words: tuple[str, str]
) -> Answer:
    """Return the answer; *words* are for a change, and for none."""
    from api.views.administration import StopsDocument, stop_lines

    names, target = container.holds.names(), _target(values)
    network, token = target["network"], target["token"]
    status = words[0 if result.changed else 1]
    stops = StopsDocument.of_holds(result.stops, names).dump()
    document = {"status": status, "network": network, "token": token, **stops}
    chain_id = target.get("chain_id", EVERYTHING)
    scope = network or ("everything" if chain_id == EVERYTHING else f"chain {chain_id}")
    scope = f"{token} on {scope}" if token else scope
    others = stop_lines(result.stops, names) if result.stops else ()
    return Answer(document, [f"{scope}: {status.replace('-', ' ')}", *others])


def _resume_in_words(facts: Mapping[str, Any]) -> str:
    chain = facts["chain_id"]
    where = "every network" if chain == str(EVERYTHING) else f"chain {chain}"
    where = f"token {facts['token']} on {where}" if "token" in facts else where
    by, reason = _quoted(facts["stopped_by"]), _quoted(facts["stop_reason"])
    return f"resume signing for {where}, stopped by {by}: {reason}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


STOP = Action(
    name="stop",
    title="Stop signing",
    about="""
    Sign nothing more on any host until `hotwallet resume`: the kill switch.

    It needs neither the key nor a node, and can be repeated. When it returns, it is in
    force on every host. Refunds are still accepted, and wait; transactions that nodes
    have already are still confirmed.
    """,
    more_help="""
    Runs without confirmation. It also replaces a stop that another program changed, so
    that it can be ended.
    """,
    scope="signing:stop",
    audit=AuditAction.SIGNING_STOP,
    path="/v1/admin/stop",
    operation="stopSigning",
    command="stop",
    page=_PAGE,
    fields=(_NETWORK, _TOKEN),
    reason=REQUIRED_REASON,
    plan=_plan_stop,
    asks=False,
    make=_stop,
    is_danger=True,
    document="api.views.administration:StoppedDocument",
    body="SwitchRequest",
    rules={"dependentRequired": {"token": ["network"]}},
)

RESUME = Action(
    name="resume",
    title="Resume signing",
    about="""
    End the stop of a network or a token there, or without a network of everything.

    Stops of tokens, of networks and of everything are ended separately; the remaining
    ones are listed. Wallets that are paused stay paused. It can be repeated.
    """,
    scope="signing:stop",
    audit=AuditAction.SIGNING_RESUME,
    path="/v1/admin/resume",
    operation="resumeSigning",
    command="resume",
    page=_PAGE,
    fields=(_NETWORK, _TOKEN),
    reason=REQUIRED_REASON,
    plan=_plan_resume,
    asks=False,
    make=_resume,
    proposed=Proposed(
        AuditAction.SIGNING_RESUME,
        _resume_in_words,
        lambda facts, names: {
            "network": scope_of(int(facts["chain_id"]), names),
            "asset": facts.get("token", EVERY),
        },
    ),
    # A stop must not fail because a token has expired; its end may need an approval.
    needs_token=lambda _: True,
    document="api.views.administration:ResumedDocument",
    body="SwitchRequest",
    rules={"dependentRequired": {"token": ["network"]}},
)


_TENANT = Field(
    "tenant",
    "The tenant's name.",
    kind=FieldKind.NAME,
    argument="TENANT",
    example="shop",
)


def _plan_block(container: Container, values: Values) -> Plan:
    block = container.holds.find_tenant(values["tenant"]).block
    return Plan(notes=[] if block is None else ["It is blocked already."])


def _plan_unblock(container: Container, values: Values) -> Plan:
    from api.views.document import format_time

    block = container.holds.find_tenant(values["tenant"]).block
    if block is None:
        return Plan(notes=["It is not blocked: nothing will change."])
    if not block.is_authentic:
        again = "Another program changed this block: block the tenant again first."
        return Plan(notes=[again])
    facts = [
        ("blocked since", format_time(block.at)),
        ("blocked by", block.requested_by),
        ("version of the block", str(block.version)),
    ]
    return Plan(facts, needs_approval=container.approvals.required)


def _block(container: Container, values: Values, actor: Actor) -> Answer:
    admin, tenant = container.holds, values["tenant"]
    if values.get("dry_run"):
        found = admin.find_tenant(tenant).block
        is_blocked = found is not None and found.is_authentic
        return _status(tenant, "already-blocked" if is_blocked else "would-block")
    changed = admin.block(tenant, actor)
    return _status(tenant, "blocked" if changed else "already-blocked")


def _unblock(container: Container, values: Values, actor: Actor) -> Answer:
    admin, tenant = container.holds, values["tenant"]
    if values.get("dry_run"):
        found = admin.find_tenant(tenant).block
        if found is not None and not found.is_authentic:
            raise found.error()
        return _status(tenant, "not-blocked" if found is None else "would-unblock")
    changed = admin.unblock(tenant, actor)
    return _status(tenant, "unblocked" if changed else "not-blocked")


def _status(tenant: str, status: str) -> Answer:
    document = {"tenant": tenant, "status": status}
    return Answer(document, [f"{tenant}: {status}"])


def _unblock_in_words(facts: Mapping[str, Any]) -> str:
    tenant, by = _quoted(facts["tenant"]), _quoted(facts["blocked_by"])
    return f"unblock tenant {tenant}, which {by} blocked"


BLOCK = Action(
    name="block-tenant",
    title="Block a tenant",
    about="""
    Block a tenant at once, on all hosts.

    Its requests that change something get 403, and its queued refunds get no nonce. It
    can still read. Refunds that have a nonce already continue. It can be repeated.
    """,
    scope="tenants:block",
    audit=AuditAction.TENANT_BLOCK,
    path="/v1/admin/tenants/{tenant}/block",
    operation="blockTenant",
    command="tenants block",
    page=_PAGE,
    fields=(_TENANT,),
    plan=_plan_block,
    make=_block,
    has_dry_run=True,
    is_danger=True,
    document="api.views.administration:BlockedTenantDocument",
)

UNBLOCK = Action(
    name="unblock-tenant",
    title="Unblock a tenant",
    about="""
    End the block of a tenant: its queued refunds are paid.

    It can be repeated.
    """,
    scope="tenants:block",
    audit=AuditAction.TENANT_UNBLOCK,
    path="/v1/admin/tenants/{tenant}/unblock",
    operation="unblockTenant",
    command="tenants unblock",
    page=_PAGE,
    fields=(_TENANT,),
    plan=_plan_unblock,
    make=_unblock,
    has_dry_run=True,
    proposed=Proposed(
        AuditAction.TENANT_UNBLOCK,
        _unblock_in_words,
        lambda facts, _: {"tenant": facts["tenant"]},
    ),
    needs_token=lambda _: True,
    document="api.views.administration:UnblockedTenantDocument",
)
