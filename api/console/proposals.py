"""
Proposals in plain words: one sentence of what an approval allows.

The sentence is made of the facts that the digest covers, and of nothing else.  Texts
that others wrote are in quotation marks, so that none of them reads like a part of the
sentence.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from signer.audit.actions import AuditAction
from signer.model.approval import Approval
from signer.model.stop import EVERYTHING
from signer.refunds.payment_approvals import ACTION
from signer.startup.limits_guard import describe


Facts = Mapping[str, Any]


def describe_proposal(approval: Approval) -> str:
    """Return what will be done if *approval* is given; its action if that is new."""
    with suppress(AttributeError, LookupError, TypeError, ValueError):
        facts: Facts = json.loads(approval.proposal)
        return _WORDS[approval.action](facts)
    return approval.action


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


def _resume(facts: Facts) -> str:
    chain = facts["chain_id"]
    where = "every network" if chain == str(EVERYTHING) else f"chain {chain}"
    return (
        f"resume signing for {where}, stopped by {_quoted(facts['stopped_by'])}:"
        f" {_quoted(facts['stop_reason'])}"
    )


def _unblock(facts: Facts) -> str:
    tenant, by = _quoted(facts["tenant"]), _quoted(facts["blocked_by"])
    return f"unblock tenant {tenant}, which {by} blocked"


def _accept(facts: Facts) -> str:
    return f"resume {_wallet(facts)}, and accept {_transactions(facts)}"


def _abandon(facts: Facts) -> str:
    return (
        f"stop waiting for pending transactions of {_wallet(facts)}, and accept"
        f" {_transactions(facts)}"
    )


def _rotate(facts: Facts) -> str:
    funds = ", also without funds there" if facts["without_funds"] else ""
    return (
        f"revoke the key of {facts['compromised_key_address']} as compromised, and pay"
        f" from {facts['key_address']}{funds}"
    )


def _revoke(facts: Facts) -> str:
    return f"revoke the former key of {facts['key_address']} as compromised"


def _reinstate(facts: Facts) -> str:
    return (
        f"reinstate the key of {facts['key_address']}, which was revoked at"
        f" {facts['revoked_at']}"
    )


def _raise_limits(facts: Facts) -> str:
    raised = {
        path: change
        for path, change in facts.items()
        if path not in {"action", "version"}
    }
    return f"raise limits: {'; '.join(describe(raised))}"


def _restore(facts: Facts) -> str:
    return "repeat what a restored database has lost, from the audit log"


_WORDS: Mapping[str, Callable[[Facts], str]] = {
    ACTION: _pay,
    AuditAction.SIGNING_RESUME: _resume,
    AuditAction.TENANT_UNBLOCK: _unblock,
    AuditAction.FOREIGN_TRANSACTION_ACCEPT: _accept,
    AuditAction.NONCE_ABANDON: _abandon,
    AuditAction.KEY_ROTATE: _rotate,
    AuditAction.KEY_REVOKE: _revoke,
    AuditAction.KEY_REINSTATE: _reinstate,
    AuditAction.LIMITS_RAISE: _raise_limits,
    AuditAction.LEDGER_RESTORE: _restore,
}


def _wallet(facts: Facts) -> str:
    return f"the wallet {facts['address']} on {facts['network']}"


def _transactions(facts: Facts) -> str:
    accepted = [
        f"{each['tx_hash']} (nonce {each['nonce']})" for each in facts["accepted"]
    ]
    return ", ".join(accepted) or "no foreign transaction"


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
