"""Approvals as JSON and as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from signer.model.approval import Approval
    from signer.open_approvals import OpenApprovals


def approval_document(approval: Approval) -> dict[str, Any]:
    """Return *approval* as JSON; ``proposal`` has everything that the digest covers."""
    from api.views.document import timestamp
    from signer.model.approval import ApprovalState

    decided_at = approval.decided_at
    return {
        "digest": approval.digest,
        "state": str(approval.state),
        "proposal": json.loads(approval.proposal),
        "reason": approval.reason,
        "requestedBy": approval.requested_by,
        "requestedAt": timestamp(approval.requested_at),
        "expiresAt": timestamp(approval.expires_at),
        "decidedBy": approval.decided_by,
        "alone": approval.is_alone and approval.state is not ApprovalState.REJECTED,
        "decidedAt": None if decided_at is None else timestamp(decided_at),
    }


def list_document(found: OpenApprovals) -> dict[str, Any]:
    """Return what waits as JSON."""
    return {
        "approvals": [approval_document(each) for each in found.approvals],
        "complete": found.is_complete,
        "nextCursor": None if found.following is None else str(found.following),
        "changedRows": found.changed,
    }


def list_lines(found: OpenApprovals) -> Iterator[str]:
    """Return what waits for people."""
    yield from approval_lines(found.approvals)
    if found.changed:
        yield (
            f"left out: {found.changed} rows that another program changed or inserted;"
            " they approve nothing (docs/how-to/alarms.md, row-not-authentic)"
        )
    if not found.is_complete:
        yield (
            f"there may be more: `hotwallet approvals list --cursor {found.following}`"
        )
    elif not (found.approvals or found.changed):
        yield "nothing waits for an approval"


def approval_lines(approvals: Sequence[Approval]) -> Iterator[str]:
    """Return *approvals* for people: what would be done, and who asks for it."""
    from api.views.document import timestamp
    from signer.model.approval import ApprovalState
    from signer.open_approvals import SHOWN_DIGITS

    for each in approvals:
        yield f"{each.digest[:SHOWN_DIGITS]} {each.state}: {each.action}"
        facts = json.loads(each.proposal)
        for name, value in facts.items():
            if name != "action":
                yield f"  {name}: {json.dumps(value)}"
        reason = f": {each.reason}" if each.reason else ""
        name = json.dumps(each.requested_by)
        since, until = timestamp(each.requested_at), timestamp(each.expires_at)
        yield f"  requested by {name} at {since}, until {until}{reason}"
        if not each.can_be_approved and each.decided_by is None:
            yield "  asked without a token: only break-glass or reject decides it"
        if each.decided_by is not None:
            is_rejected = each.state is ApprovalState.REJECTED
            verb = "rejected" if is_rejected else "approved"
            alone = "" if is_rejected or not each.is_alone else " ALONE"
            yield f"  {verb}{alone} by {json.dumps(each.decided_by)}"
