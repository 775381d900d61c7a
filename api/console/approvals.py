"""Proposals as the pages show them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.console.proposals import describe_proposal
from api.container import Container
from signer.model.approval import Approval


@dataclass(frozen=True, slots=True)
class ShownProposal:
    """A proposal in one sentence, and all that it applies to, in JSON."""

    approval: Approval
    sentence: str
    facts: Mapping[str, str]

    @property
    def action(self) -> str:
        """What will be done."""
        return self.approval.action


def find_waiting(container: Container, *actions: str) -> Sequence[ShownProposal]:
    """Return the proposals of *actions* that wait for a decision or for their use."""
    found = container.approvals.list()
    return [show_proposal(each) for each in found.approvals if each.action in actions]


def show_proposal(approval: Approval) -> ShownProposal:
    """Return the proposal of *approval*, with everything that its digest covers."""
    facts: dict[str, Any] = json.loads(approval.proposal)
    shown = {
        name: json.dumps(value) for name, value in facts.items() if name != "action"
    }
    return ShownProposal(approval, describe_proposal(approval), shown)
