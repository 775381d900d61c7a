"""Rules that let refunds wait for approvals, and who decides about them."""

from functools import cache

from signer.config.tenants import TenantRegistry
from signer.model.approval import Approval
from signer.model.audit_record import Actor
from signer.model.refund import Refund
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.support.payment_approvals import WHY, administrators
from tests.support.refunds import World


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


def approve(world: World, refund: Refund, *actors: Actor) -> Approval:
    """Let each of *actors* approve what waits."""
    for actor in actors:
        approved = administrators(world).approve(
            waiting(world, refund).digest, actor, WHY
        )
    return approved
