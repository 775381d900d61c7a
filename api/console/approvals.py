"""Proposals as the pages show them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from signer.model.approval import Approval


DECISIONS: Mapping[str, str] = {"approve": "Approve", "reject": "Reject"}
"""The decisions of the console, and what their buttons say."""


@dataclass(frozen=True, slots=True)
class ShownProposal:
    """A proposal: its digest, its action, and all that it applies to, in JSON."""

    approval: Approval
    facts: Mapping[str, str]

    @property
    def action(self) -> str:
        """What will be done."""
        return self.approval.action


def show_proposal(approval: Approval) -> ShownProposal:
    """Return the proposal of *approval*, with everything that its digest covers."""
    facts: dict[str, Any] = json.loads(approval.proposal)
    shown = {
        name: json.dumps(value) for name, value in facts.items() if name != "action"
    }
    return ShownProposal(approval, shown)
