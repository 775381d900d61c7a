"""``POST /v1/admin/kms/rotate`` and ``GET /v1/admin/keys``."""

from collections.abc import Sequence
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from signer.chain.chain import Chain
from signer.keys.balances import AddressBalance
from tests.api.administrators import authorized, post_as_admin
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.refunds import CUSTOMER, NETWORK
from tests.support.ring import NEW, OLD, OTHER, POOR, RICH, System


def _rotate(client: TestClient, body: Any, **claims: Any) -> Result:
    return post_as_admin(client, "/v1/admin/kms/rotate", body, **claims)


def _keys(client: TestClient, **claims: Any) -> Result:
    return client.simulate_get("/v1/admin/keys", headers=authorized(**claims))


def _balance_document(holding: AddressBalance) -> dict[str, Any]:
    return {
        "network": "local",
        "gas": holding.gas,
        "tokens": dict(holding.tokens),
        "nonce": 0,
        "error": None,
    }


def test_rotates(admin_client: TestClient, system: System) -> None:
    """200 with eight characters of both key ids, and both addresses."""
    answer = _rotate(admin_client, {"newKeyId": NEW})

    assert answer.status_code == 200
    assert answer.json == {
        "status": "rotated",
        "keyId": "22222222...",
        "address": system.address(NEW),
        "epoch": 2,
        "previousKeyId": "11111111...",
        "previousAddress": system.address(OLD),
        "holdings": [_balance_document(RICH)],
        "strandedRefunds": [],
        "warnings": [
            "the address has changed: inform everyone who funds or monitors the wallet"
        ],
    }
    assert NEW not in answer.text
    active = system.store.active_key()
    assert active is not None
    assert (active.key_id, active.requested_by) == (NEW, "token:alice")


def test_a_repeated_rotation_returns_the_same_key(
    admin_client: TestClient, system: System
) -> None:
    """O2: the same request with a new token returns the same key and epoch."""
    first = _rotate(admin_client, {"newKeyId": NEW}).json
    again = _rotate(admin_client, {"newKeyId": NEW})
    repeated = again.json

    assert again.status_code == 200
    for name in ("status", "keyId", "address", "epoch", "previousKeyId"):
        assert repeated[name] == first[name]


def test_a_dry_run_of_the_active_key(admin_client: TestClient, system: System) -> None:
    """200 and ``would-rotate`` after a self-test, with a warning."""
    answer = _rotate(admin_client, {"newKeyId": OLD, "dryRun": True})

    assert (answer.status_code, answer.json["status"]) == (200, "would-rotate")
    assert answer.json["warnings"] == ["the key was already active"]
    assert system.directory.devices[OLD].calls == 1


def test_checks_the_address_of_the_active_key(
    admin_client: TestClient, system: System
) -> None:
    """O2: for another active address, 409 names the right one; nothing is changed."""
    body = {"newKeyId": NEW, "compromised": True}
    wrong = _rotate(admin_client, {**body, "activeAddress": system.address(OTHER)})
    unchanged = system.states
    right = {**body, "activeAddress": system.address(OLD).lower()}
    answers = [_rotate(admin_client, right) for _ in range(2)]

    assert (wrong.status_code, wrong.json["code"]) == (409, "conflict")
    assert system.address(OLD) in wrong.json["detail"]
    assert "retry-after" not in wrong.headers
    assert unchanged == {OLD: "active"}
    assert [answer.status_code for answer in answers] == [200, 200]
    assert system.states == {NEW: "active", OLD: "blocked"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_key_that_may_not_pay_from_the_vault_is_refused(
    admin_client: TestClient, system: System, *, dry_run: bool
) -> None:
    """409 has the address, the network and the command; a rehearsal as well."""
    network = NETWORK.model_copy(update={"vault": CUSTOMER})
    system.chains["local"] = Chain(network, ScriptedChain())
    answer = _rotate(admin_client, {"newKeyId": NEW, "dryRun": dry_run})

    assert answer.status_code == 409
    assert answer.json["code"] == "vault-operator-missing"
    assert f"the vault of local ({CUSTOMER})" in answer.json["detail"]
    assert answer.json["detail"].endswith(
        "Run: hotwallet vault propose --network local --add-operator"
        f" {system.address(NEW)}"
    )
    assert "retry-after" not in answer.headers
    assert system.states[OLD] == "active"


@pytest.mark.parametrize("needs_funds", [True])
def test_waits_for_funds(admin_client: TestClient, system: System) -> None:
    """O3: 202 while the new address lacks required funds; 200 once it has them."""
    system.holdings = (POOR,)
    waiting = _rotate(admin_client, {"newKeyId": NEW})
    listed = _keys(admin_client).json["keys"][-1]
    unchanged = system.store.active_key()
    system.holdings = (RICH,)
    rotated = _rotate(admin_client, {"newKeyId": NEW})

    assert unchanged == system.old
    assert (waiting.status_code, waiting.json["status"]) == (202, "awaiting-funds")
    assert waiting.json["holdings"] == [_balance_document(POOR)]
    assert waiting.json["epoch"] is None
    assert len(waiting.json["warnings"]) == 3
    assert (listed["state"], listed["blockedBy"]) == ("pending", "awaiting-funds")
    assert (rotated.status_code, rotated.json["epoch"]) == (200, 2)


@pytest.mark.parametrize("needs_funds", [True])
def test_a_dry_run_without_funds(admin_client: TestClient, system: System) -> None:
    """O3: 200, and the status shows that a rotation would be a 202."""
    system.holdings = (POOR,)
    answer = _rotate(admin_client, {"newKeyId": NEW, "dryRun": True})

    assert (answer.status_code, answer.json["status"]) == (200, "would-await-funds")
    assert system.store.active_key() == system.old


def test_an_unknown_field_is_answered_with_the_known_ones(
    admin_client: TestClient,
) -> None:
    """The answer lists the fields of the request, and does not repeat the sent name."""
    answer = _rotate(admin_client, {"newKeyId": NEW, NEW: True})

    assert answer.json["detail"] == (
        "has an unknown field; this request takes"
        " newKeyId, compromised, activeAddress, withoutFunds, dryRun, reason"
    )
    assert NEW not in answer.text


def test_a_missing_key_raises_no_alert(
    admin_client: TestClient, system: System
) -> None:
    """An id that no key has is most likely a typo."""
    answer = _rotate(admin_client, {"newKeyId": "nowhere-to-be-found"})

    assert (answer.status_code, answer.json["code"]) == (503, "new-key-unhealthy")
    assert answer.json["reason"] == "key-not-found"
    assert system.alerts == []
    assert ("key-rotate-refused", "key-not-found") in system.outcomes
    assert "nowhere-to-be-found" not in answer.text
    assert system.store.active_key() == system.old


def test_lists_the_active_key_first(admin_client: TestClient, system: System) -> None:
    """Each key has at most eight characters of its id."""
    _rotate(admin_client, {"newKeyId": NEW})
    answer = _keys(admin_client)
    shown: Sequence[dict[str, Any]] = answer.json["keys"]

    assert answer.status_code == 200
    assert [(k["keyId"], k["state"], k["epoch"]) for k in shown] == [
        ("22222222...", "active", 2),
        ("11111111...", "draining", 1),
    ]
    assert shown[0].keys() == {
        "keyId",
        "backend",
        "address",
        "state",
        "epoch",
        "requestedBy",
        "blockedBy",
        "createdAt",
        "updatedAt",
        "reinstatableUntil",
    }
    assert (shown[0]["backend"], shown[0]["address"]) == ("device", system.address(NEW))
    assert (shown[0]["requestedBy"], shown[0]["blockedBy"]) == ("token:alice", None)
    assert shown[1]["createdAt"] == "2026-01-01T00:00:00.000000Z"
    assert OLD not in answer.text


WHY = {"reason": "the wrong address"}


def _reinstate(client: TestClient, address: str, body: Any = None) -> Result:
    path = f"/v1/admin/keys/{address}/reinstate"
    return post_as_admin(client, path, WHY if body is None else body)


def test_reinstates_a_revoked_key(admin_client: TestClient, system: System) -> None:
    """O8: 200 with the key; a repeated request changes nothing."""
    old = system.address(OLD)
    _rotate(admin_client, {"newKeyId": NEW, "compromised": True, "activeAddress": old})
    listed = _keys(admin_client).json["keys"]
    answers = [_reinstate(admin_client, each) for each in (old, old.lower())]

    assert [each["reinstatableUntil"] is None for each in listed] == [True, False]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json == answers[1].json
    assert answers[0].json["state"] == "draining"
    assert answers[0].json["openRefunds"] == []
    assert answers[0].json["reinstatableUntil"] is None
    assert system.states == {NEW: "active", OLD: "draining"}
