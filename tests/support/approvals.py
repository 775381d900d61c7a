"""Rules that let refunds wait for approvals, and who decides about them."""

from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any

from signer.alerts import Alerts
from signer.approvals import Approvals
from signer.audit.log import AuditLog
from signer.config.tenants import TenantRegistry
from signer.model.approval import Approval, Proposal
from signer.model.audit_record import Actor
from signer.model.decision import ApprovalNeed
from signer.model.refund import Refund
from signer.policy import rules
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from signer.refunds.payment_approvals import build_proposal
from tests.support.approvers import AnyKey, text_of
from tests.support.refunds import NETWORK, REQUEST, World
from tests.support.ring import SILENCE


ASKING = Actor.from_token("gateway", "req-1", "jti-1")
BOB, CAROL = Actor.from_token("bob", "req-2", "jti-2"), Actor("token:carol")
WHY = "the customer has called"

_numbers = count()

_LIMITED = NETWORK.model_copy(
    update={
        "tokens": {
            "TUSD": NETWORK.tokens["TUSD"].model_copy(update={"approve_above": "1"})
        }
    }
)

APPROVE_ABOVE = ApprovalNeed(
    frozenset(
        each.version
        for each in Policy.compile(
            service_files({"local": _LIMITED}, TenantRegistry())
        ).rules
        if each.name == rules.APPROVE_ABOVE
    )
)
"""What the rule demands that the setting ``approve_above`` makes."""


def proposal_of(refund: Refund) -> Proposal:
    """Return the proposal to pay *refund*, if only its amount demands one."""
    return build_proposal(refund, APPROVE_ABOVE)


def limited(world: World, above: str = "10") -> World:
    """Return *world*, in which refunds of more than *above* need an approval."""
    world.change_token(approve_above=above)
    return world


def administrators(world: World) -> Approvals:
    """Return what administrators decide with, in a process that starts now."""
    audit = AuditLog(SILENCE, world.clock, journal=world.store)
    return Approvals(
        world.store,
        audit,
        Alerts(world.store),
        world.clock,
        required=True,
        approvers=world.approvers,
    )


def requested(world: World, *, tenant: str = "gateway", **changes: Any) -> Refund:
    """Return a new refund that a subject of *tenant* requested."""
    name = f"large-{next(_numbers)}"
    accepted = world.service.submit(
        tenant=tenant,
        idempotency_key=name,
        request=replace(REQUEST, reference=name, **changes),
        actor=ASKING,
    )
    assert accepted.created
    return world.stored(accepted.refund)


def approval_of(world: World, refund: Refund) -> Approval:
    found = world.store.find_approval(proposal_of(refund).digest)
    assert found is not None
    return found


def approve(world: World, refund: Refund, actor: Actor = BOB) -> Approval:
    return administrators(world).approve(proposal_of(refund).digest, actor.because(WHY))


def reject(world: World, refund: Refund, actor: Actor = BOB) -> Approval:
    return administrators(world).reject(proposal_of(refund).digest, actor.because(WHY))


def approve_signed(
    world: World, refund: Refund, name: str, key: AnyKey, actor: Actor = BOB
) -> Approval:
    """Let *actor* hand in the signature of *name*, with *key*, that it may be paid."""
    row = waiting(world, refund)
    assert world.approvers is not None
    signature = key.sign(text_of(world.approvers, row, name))
    return administrators(world).approve(row.digest, actor.because(WHY), signature)


def rule(
    name: str, approvals: int, condition: str = "true", group: str | None = None
) -> str:
    """Return a rule that lets refunds wait for *approvals*, of people of *group*."""
    approvers = "" if group is None else f' @approvers("{group}")'
    return (
        f'@id("{name}") @approvals("{approvals}"){approvers}\n'
        'forbid (principal, action == Action::"sign-transaction", resource)\n'
        f'when {{ context.path == "refund" && {condition} }};\n'
    )


def ruled(world: World, text: str) -> World:
    """Return *world*, whose processes start with the own rules of *text* from now."""
    world.policy = _compile(text)
    return world


@cache  # Compiling takes a while.
def _compile(text: str) -> Policy:
    files = service_files({}, TenantRegistry())
    return Policy.compile(files, [PolicyFile("own.cedar", text)])


def waiting(world: World, refund: Refund) -> Approval:
    """Return the only proposal to pay *refund* that can be decided."""
    found = [
        each
        for each in administrators(world).list().approvals
        if each.refund_id == refund.id
    ]
    (only,) = found
    return only


def approve_waiting(world: World, refund: Refund, *actors: Actor) -> Approval:
    for actor in actors:
        approved = administrators(world).approve(
            waiting(world, refund).digest, actor.because(WHY)
        )
    return approved
