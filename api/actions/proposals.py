"""
Proposals in plain words: one sentence of what an approval allows.

The sentence is made of the facts that the digest covers, and of nothing else.  Texts
that others wrote are in quotation marks, so that none of them reads like a part of the
sentence.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from api.actions.action import Action, Texts
from api.actions.catalogue import ACTIONS
from api.container import Container
from signer.audit.actions import AuditAction
from signer.model.approval import REFUND_PAY, Approval
from signer.startup.policy_approval import describe


Facts = Mapping[str, Any]

_PROPOSED = {
    each.proposed.action: (each, each.proposed)
    for each in ACTIONS
    if each.proposed is not None
}


@dataclass(frozen=True, slots=True)
class ShownProposal:
    """A proposal in one sentence, and all that it applies to, in JSON."""

    approval: Approval
    sentence: str
    facts: Mapping[str, str]

    @property
    def action(self) -> str:
        return self.approval.action


def find_waiting(container: Container, page: str) -> Sequence[ShownProposal]:
    """Return what waits for a decision or for its use, of the actions of *page*."""
    actions = {name for name, (each, _) in _PROPOSED.items() if each.page == page}
    found = container.approvals.list().approvals
    return [show_proposal(each) for each in found if each.action in actions]


def show_proposal(approval: Approval) -> ShownProposal:
    """Return the proposal of *approval*, with everything that its digest covers."""
    facts: dict[str, Any] = json.loads(approval.proposal)
    shown = {
        name: json.dumps(value) for name, value in facts.items() if name != "action"
    }
    return ShownProposal(approval, describe_proposal(approval), shown)


def describe_proposal(approval: Approval) -> str:
    """Return what will be done if *approval* is given; its action if that is new."""
    with suppress(AttributeError, LookupError, TypeError, ValueError):
        return SENTENCES[approval.action](json.loads(approval.proposal))
    return approval.action


def find_follow_up(
    approval: Approval, names: Mapping[int, str]
) -> tuple[Action, Texts] | None:
    """
    Return the action to repeat once *approval* is given, and fields of its form.

    None if the console does not offer it.  *names* are those of the networks, by chain
    id.
    """
    with suppress(LookupError, TypeError, ValueError):
        action, proposed = _PROPOSED[AuditAction(approval.action)]
        return action, proposed.texts(json.loads(approval.proposal), names)
    return None


def _pay(facts: Facts) -> str:
    return (
        f"pay {_plain(facts['amount'])} {facts['token_symbol']} to"
        f" {facts['recipient']} on {facts['network']} for tenant"
        f" {_quoted(facts['tenant'])}, reference {_quoted(facts['reference'])}"
        f"{_rules(facts)}"
    )


def _rules(facts: Facts) -> str:
    """Return which rules of the policy demand it, and how many people must agree."""
    if "rules" not in facts:
        return ""
    names = ", ".join(each.partition("@")[0] for each in facts["rules"].split(", "))
    groups = f" of {_quoted(facts['approvers'])}" if "approvers" in facts else ""
    return f"; {facts['approvals']}{groups} must approve it (rules {_quoted(names)})"


def _raise_limits(facts: Facts) -> str:
    raised = {
        path: change
        for path, change in facts.items()
        if path not in {"action", "version"}
    }
    return f"raise limits: {'; '.join(describe(raised))}"


def _restore(_: Facts) -> str:
    return "repeat what a restored database has lost, from the audit log"


SENTENCES: Mapping[str, Callable[[Facts], str]] = {
    REFUND_PAY: _pay,
    AuditAction.LIMITS_RAISE: _raise_limits,
    AuditAction.LEDGER_RESTORE: _restore,
    **{name: proposed.sentence for name, (_, proposed) in _PROPOSED.items()},
}
"""By the action of the proposal."""


def _plain(amount: str) -> str:
    """
    Return *amount* without zeros that say nothing.

    >>> _plain("12.500000"), _plain("450.000000"), _plain("0.000001")
    ('12.50', '450.00', '0.000001')
    """
    whole, _, digits = amount.partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(2, '0')}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
