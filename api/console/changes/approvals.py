"""Deciding about a proposal: approve it, reject it, or approve it alone."""

from collections.abc import Callable

from api.console.approvals import show_proposal
from api.console.changes.change import REASON, Change, Field, Outcome, Plan, Values
from api.console.rendering import format_time
from api.container import Container
from signer.approvals import Approvals
from signer.errors import ConflictError
from signer.model.approval import Approval, ApprovalState
from signer.model.audit_record import Actor


_PAGE = "/console/approvals"

_DIGEST = Field("digest", "Digest", "All 64 digits, or the first 16.")

Decide = Callable[[Approvals, str, Actor, str], Approval]


def _plan(container: Container, values: Values) -> Plan:
    found = container.approvals.find(values["digest"])
    if not found.is_unused(container.ledger_clock()):
        raise ConflictError(f"nothing was changed: the proposal is {found.state}")
    proposal = show_proposal(found)
    return Plan(
        [
            ("it allows to", proposal.sentence),
            ("action", found.action),
            *proposal.facts.items(),
            ("requested by", found.requested_by),
            ("reason of the request", found.reason or "-"),
            ("expires at", format_time(found.expires_at)),
            ("its state now", str(found.state)),
        ]
    )


def _decide(
    decide: Decide, summary: str
) -> Callable[[Container, Values, Actor], Outcome]:
    def make(container: Container, values: Values, actor: Actor) -> Outcome:
        found = decide(container.approvals, values["digest"], actor, values["reason"])
        still = found.state is ApprovalState.WAITING
        step = ("The proposal", f"{_PAGE}/{found.digest}")
        return Outcome(
            "It still needs another administrator" if still else summary,
            [show_proposal(found).sentence],
            next_step=step,
        )

    return make


APPROVE = Change(
    "approve",
    "Approve a proposal",
    "approvals:decide",
    "POST /v1/admin/approvals/{digest}/approve",
    _PAGE,
    (_DIGEST, REASON),
    _plan,
    _decide(Approvals.approve, "It is approved"),
)

REJECT = Change(
    "reject",
    "Reject a proposal",
    "approvals:decide",
    "POST /v1/admin/approvals/{digest}/reject",
    _PAGE,
    (_DIGEST, REASON),
    _plan,
    _decide(Approvals.reject, "It is rejected"),
    is_danger=True,
)

BREAK_GLASS = Change(
    "break-glass",
    "Approve alone, in an emergency",
    "approvals:break-glass",
    "POST /v1/admin/approvals/{digest}/break-glass",
    _PAGE,
    (_DIGEST, REASON),
    _plan,
    _decide(
        Approvals.break_glass, "It is approved by one person, and an alert is sent"
    ),
    is_danger=True,
)
