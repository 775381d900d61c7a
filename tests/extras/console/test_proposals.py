"""Proposals in plain words; what they say is what the digest covers."""

from datetime import UTC, datetime
from typing import Any

import pytest

from api.actions.proposals import SENTENCES, describe_proposal, find_follow_up
from signer.model.approval import Approval, Proposal
from signer.model.decision import ApprovalNeed
from signer.refunds.payment_approvals import build_proposal
from tests.fixtures.ledger import queued
from tests.support.approvals import proposal_of


NOW = datetime(2026, 11, 24, tzinfo=UTC)
ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
WALLET = {
    "network": "local",
    "chain_id": "31337",
    "address": ADDRESS,
    "wallet_version": 2,
    "accepted": [{"nonce": 3, "tx_hash": "0xab"}],
}
KEY = {"key": "1234abcd...", "key_address": ADDRESS, "epoch": 1}


def _approval(action: str, facts: dict[str, Any]) -> Approval:
    proposal = Proposal(action, facts)
    return Approval.of(
        proposal, reason="", requested_by="token:carol", at=NOW, expires_at=NOW
    )


CASES: dict[str, tuple[dict[str, Any], str, dict[str, str] | None]] = {
    "signing-resume": (
        {"chain_id": "31337", "stopped_by": "worker", "stop_reason": "odd"},
        'resume signing for chain 31337, stopped by "worker": "odd"',
        {"network": "local", "asset": "*"},
    ),
    "tenant-unblock": (
        {"tenant": "shop", "blocked_by": "token:bob"},
        'unblock tenant "shop", which "token:bob" blocked',
        {"tenant": "shop"},
    ),
    "foreign-transaction-accept": (
        WALLET,
        f"resume the wallet {ADDRESS} on local, and accept 0xab (nonce 3)",
        {"network": "local"},
    ),
    "nonce-abandon": (
        {**WALLET, "accepted": []},
        (
            f"stop waiting for pending transactions of the wallet {ADDRESS} on local,"
            " and accept no foreign transaction"
        ),
        {"network": "local", "address": ADDRESS},
    ),
    "key-rotate": (
        {**KEY, "compromised_key_address": "0xold", "without_funds": True},
        (
            f"revoke the key of 0xold as compromised, and pay from {ADDRESS}, also"
            " without funds there"
        ),
        {"compromised": "yes", "without_funds": "yes", "active_address": "0xold"},
    ),
    "key-revoke": (
        KEY,
        f"revoke the former key of {ADDRESS} as compromised",
        {"address": ADDRESS},
    ),
    "key-reinstate": (
        {**KEY, "revoked_at": "2026-11-24"},
        f"reinstate the key of {ADDRESS}, which was revoked at 2026-11-24",
        {"address": ADDRESS},
    ),
    "limits-raise": (
        {"networks.local.max": {"before": "500", "after": "5000"}, "version": 3},
        "raise limits: networks.local.max: 500 -> 5000",
        None,
    ),
    "ledger-restore": (
        {"records": 2},
        "repeat what a restored database has lost, from the audit log",
        None,
    ),
}


def test_every_proposal_has_its_words() -> None:
    assert {str(each) for each in SENTENCES} == {*CASES, "refund-pay"}


@pytest.mark.parametrize("action", CASES)
def test_words(action: str) -> None:
    facts, sentence, values = CASES[action]
    approval = _approval(action, facts)
    follow_up = find_follow_up(approval, {31337: "local"})

    assert describe_proposal(approval) == sentence
    assert values == (None if follow_up is None else follow_up[1])


def test_a_refund_in_words() -> None:
    refund = queued(tenant="shop", reference="order-1", amount=12_500_000)
    proposal = proposal_of(refund)

    assert describe_proposal(_approval(proposal.action, dict(proposal.facts))) == (
        f'pay 12.50 TUSD to {ADDRESS} on local for tenant "shop", reference "order-1"'
        '; 1 must approve it (rules "approve-above")'
    )


def test_a_text_cannot_pretend_to_be_a_part_of_the_sentence() -> None:
    """Its quotation marks are escaped."""
    refund = queued(tenant="shop", reference='1", approved by "token:bob')
    proposal = proposal_of(refund)
    sentence = describe_proposal(_approval(proposal.action, dict(proposal.facts)))

    assert 'reference "1\\", approved by \\"token:bob";' in sentence


@pytest.mark.parametrize(
    "facts",
    [{}, {"chain_id": 1}, {"chain_id": "x", "stopped_by": 1, "stop_reason": None}],
)
def test_other_facts_do_no_harm(facts: dict[str, Any]) -> None:
    """A new release may ask with other facts: the page then shows the action."""
    approval = _approval("signing-resume", facts)

    assert "resum" in describe_proposal(approval)
    assert find_follow_up(approval, {}) is None or facts["chain_id"] == 1
    assert describe_proposal(_approval("something-new", facts)) == "something-new"
    assert find_follow_up(_approval("something-new", facts), {}) is None


def test_the_rules_of_the_policy_are_named() -> None:
    need = ApprovalNeed(frozenset({"large@9f2c", "night@51aa"}), 2)
    proposal = build_proposal(queued(), need)
    sentence = describe_proposal(_approval(proposal.action, dict(proposal.facts)))

    assert sentence.endswith('; 2 must approve it (rules "large, night")')


def test_the_group_of_approvers_is_named() -> None:
    need = ApprovalNeed(frozenset({"large@9f2c"}), 2, frozenset({"legal", "finance"}))
    proposal = build_proposal(queued(), need)
    sentence = describe_proposal(_approval(proposal.action, dict(proposal.facts)))

    assert sentence.endswith('; 2 of "finance, legal" must approve it (rules "large")')
