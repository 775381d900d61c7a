"""The explanation of a refund's status."""

import re

import pytest
from falcon.testing import TestClient

from signer.errors import ChainUnavailableError
from tests.api.service import BODY
from tests.api.support import get, post
from tests.fixtures.scripted_chain import ScriptedChain


MEMBERS = {
    "refund", "summary", "next", "blocked_by", "attempts", "policy", "history",
    "transactions", "nonce", "wallet", "nodes", "confirmations", "fees", "unanswered",
    "stopped_at", "tenant_blocked_at",
}  # fmt: skip


@pytest.fixture
def sent(paying: TestClient) -> str:
    """The path of a refund that is in a node's pool."""
    return str(post(paying, BODY).headers["location"])


def test_an_explanation_has_all_members(paying: TestClient, sent: str) -> None:
    refund = get(paying, sent).json
    answer = get(paying, f"{sent}/explain")
    found = answer.json

    assert answer.status_code == 200
    assert found.keys() == MEMBERS
    assert found["refund"] == refund
    assert found["summary"] == "1 of 1 nodes have it, and it waits to be mined."
    assert found["next"]["what"].startswith("A worker broadcasts the same")
    assert found["next"]["at"] == "2026-11-24T12:00:30.000000Z"
    assert found["policy"] == {"allowed": True, "objection": None}
    assert (found["blocked_by"], found["attempts"]) == (None, 0)
    assert [move["status"] for move in found["history"]] == [
        "queued",
        "reserved",
        "signed",
        "broadcast",
    ]
    assert found["nonce"] == {"nonce": 0, "waits_for": []}
    assert found["unanswered"] == {}


def test_transactions_have_hash_and_fees(paying: TestClient, sent: str) -> None:
    """Fees are decimal strings; the signed bytes are left out."""
    refund = get(paying, sent).json
    found = get(paying, f"{sent}/explain").json
    (transaction,) = found["transactions"]

    assert transaction == {
        "tx_hash": refund["tx_hash"],
        "attempt": 0,
        "kind": "transfer",
        "max_fee_per_gas": transaction["max_fee_per_gas"],
        "max_priority_fee_per_gas": "100000000",
        "gas_limit": transaction["gas_limit"],
        "signed_at": "2026-11-24T12:00:00.000000Z",
    }
    assert re.fullmatch("[0-9]{10}", transaction["max_fee_per_gas"])
    assert found["fees"]["max_fee_per_gas"] == transaction["max_fee_per_gas"]
    assert found["fees"]["base_fee_per_gas"] == "1000000000"
    required = int(found["fees"]["replacement_max_fee_per_gas"])
    assert required * 8 >= int(transaction["max_fee_per_gas"]) * 9


def test_nodes_and_wallet(paying: TestClient, sent: str, node: ScriptedChain) -> None:
    refund = get(paying, sent).json
    found = get(paying, f"{sent}/explain").json

    assert found["nodes"] == [
        {
            "node": "node-1",
            "trusted": True,
            "error": None,
            "head": 0,
            "next_nonce": 0,
            "pending_nonce": 1,
            "transactions": {refund["tx_hash"]: "pending"},
        }
    ]
    assert found["wallet"] == {
        "chain_id": 31337,
        "address": refund["sender"],
        "next_nonce": 1,
        "chain_next_nonce": 1,
        "unseen": 0,
        "paused_by": None,
        "paused_at": None,
        "foreign": [],
    }


def test_names_what_the_nodes_did_not_answer(
    paying: TestClient, sent: str, node: ScriptedChain
) -> None:
    """The rest comes from the ledger."""
    down = ChainUnavailableError("no node answers")
    for method in ("pending_count", "latest_block", "fees", "views"):
        node.fail(method, down)
    answer = get(paying, f"{sent}/explain")
    found = answer.json

    assert answer.status_code == 200
    assert found["unanswered"] == {
        "wallet": "chain-unavailable",
        "head": "chain-unavailable",
        "fees": "chain-unavailable",
    }
    assert [each["error"] for each in found["nodes"]] == ["chain-unavailable"]
    assert found["wallet"] is None
    assert found["fees"] is None
    assert len(found["transactions"]) == 1
    assert len(found["history"]) == 4


def test_names_refunds_with_earlier_nonces(
    paying: TestClient, sent: str, node: ScriptedChain
) -> None:
    first = get(paying, sent).json
    second = post(paying, BODY | {"reference": "second"}).headers["location"]
    found = get(paying, f"{second}/explain").json

    assert found["nonce"] == {
        "nonce": 1,
        "waits_for": [{"nonce": 0, "refund": first["id"], "status": "broadcast"}],
    }
    assert first["id"] in found["summary"]
