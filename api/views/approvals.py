"""Approvals as JSON and as lines of text."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from api.views.refunds import timestamp
from signer.approvals import SHOWN_DIGITS
from signer.model.approval import Approval, ApprovalState


def approval_document(approval: Approval) -> dict[str, Any]:
    """Return *approval* as JSON; ``proposal`` has everything that the digest covers."""
    decided_at = approval.decided_at
    return {
        "digest": approval.digest,
        "state": str(approval.state),
        "proposal": json.loads(approval.proposal) if approval.is_authentic else None,
        "reason": approval.reason,
        "requestedBy": approval.requested_by,
        "requestedAt": timestamp(approval.requested_at),
        "expiresAt": timestamp(approval.expires_at),
        "decidedBy": approval.decided_by,
        "alone": approval.is_alone and approval.state is not ApprovalState.REJECTED,
        "decidedAt": None if decided_at is None else timestamp(decided_at),
        "authentic": approval.is_authentic,
    }


def approval_lines(approvals: Sequence[Approval]) -> Iterator[str]:
    """Return *approvals* for people: what would be done, and who asks for it."""
    for each in approvals:
        if not each.is_authentic:
            yield (
                f"{each.digest[:SHOWN_DIGITS]!a}: not authentic, so it approves"
                " nothing: another program changed this row"
            )
            continue
        yield f"{each.digest[:SHOWN_DIGITS]} {each.state}: {each.action}"
        facts = json.loads(each.proposal)
        for name, value in facts.items():
            if name != "action":
                yield f"  {name}: {json.dumps(value)}"
        reason = f": {each.reason}" if each.reason else ""
        name = json.dumps(each.requested_by)
        since, until = timestamp(each.requested_at), timestamp(each.expires_at)
        yield f"  requested by {name} at {since}, until {until}{reason}"
        if each.decided_by is not None:
            is_rejected = each.state is ApprovalState.REJECTED
            verb = "rejected" if is_rejected else "approved"
            alone = "" if is_rejected or not each.is_alone else " ALONE"
            yield f"  {verb}{alone} by {json.dumps(each.decided_by)}"
