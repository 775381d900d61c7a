"""Deciding about a proposal: approve it, reject it, or approve it alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from api.actions.action import (
    REQUIRED_REASON,
    Action,
    Answer,
    Field,
    FieldKind,
    Plan,
    Values,
)
from signer.audit.actions import AuditAction
from signer.model.audit_record import Actor


if TYPE_CHECKING:
    from api.container import Container
    from signer.approvals import Approvals
    from signer.model.approval import Approval


_PAGE = "/console/approvals"

_DIGEST = Field(
    "digest",
    "The proposal's digest, or its first 16 digits.",
    kind=FieldKind.DIGEST,
    argument="DIGEST",
)

_SIGNATURE = Field(
    "signature",
    "If approvers have keys, what the approval page shows, or `ssh-keygen -Y sign`.",
    kind=FieldKind.SIGNATURE,
    is_required=False,
    max_length=4096,
)

Decide = Callable[["Approvals"], Callable[..., "Approval"]]


def _plan(container: Container, values: Values) -> Plan:
    from api.actions.proposals import show_proposal
    from api.views.document import format_time
    from signer.errors import ConflictError

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


def _make(decide: Decide, container: Container, values: Values, actor: Actor) -> Answer:
    from api.views.administration import ApprovalDocument, approval_lines

    signed = [values["signature"]] if "signature" in values else []
    found = decide(container.approvals)(values["digest"], actor, *signed)
    return Answer(
        ApprovalDocument.of(found).dump(),
        [*approval_lines([found])],
        next_step=("The proposal", f"{_PAGE}/{found.digest}"),
    )


def _decision(
    verb: str,
    title: str,
    about: str,
    *,
    audit: AuditAction,
    operation: str,
    decide: Decide,
) -> Action:
    is_alone, is_signed = verb == "break-glass", verb != "reject"
    return Action(
        name=verb,
        title=title,
        about=about,
        scope="approvals:break-glass" if is_alone else "approvals:decide",
        audit=audit,
        path=f"/v1/admin/approvals/{{digest}}/{verb}",
        operation=operation,
        command=f"approvals {verb}",
        page=_PAGE,
        fields=(_DIGEST, _SIGNATURE) if is_signed else (_DIGEST,),
        reason=REQUIRED_REASON,
        plan=_plan,
        make=partial(_make, decide),
        asks_with_plan=True,
        needs_token=lambda values: not values.get("signature"),
        is_danger=verb != "approve",
        answers={200: "The proposal."},
        document="api.views.administration:ApprovalDocument",
        body="Decision" if is_signed else "",
        problems=frozenset(
            {"same-person", "operator-not-identified", "not-found", "conflict"}
        ),
    )


APPROVE = _decision(
    "approve",
    "Approve a proposal",
    """
    Approve a proposal; then the request can be repeated.

    The administrator who asked cannot approve. If approvers have keys of their own,
    their signatures approve, and the caller hands them in.
    """,
    audit=AuditAction.APPROVAL_GRANT,
    operation="approveChange",
    decide=lambda approvals: approvals.approve,
)

REJECT = _decision(
    "reject",
    "Reject a proposal",
    "Refuse a proposal, or withdraw one's own.",
    audit=AuditAction.APPROVAL_REJECT,
    operation="rejectChange",
    decide=lambda approvals: approvals.reject,
)

BREAK_GLASS = _decision(
    "break-glass",
    "Approve alone, in an emergency",
    """
    Approve a proposal alone, in an emergency.

    It sounds the alert `break-glass`, and the audit log has it for ever.
    """,
    audit=AuditAction.APPROVAL_BREAK_GLASS,
    operation="breakGlass",
    decide=lambda approvals: approvals.break_glass,
)
