"""``/v1/admin/approvals``: two administrators for what cannot be undone."""

from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from tests.api.administrators import authorized
from tests.api.support import SettableClock


READ, DECIDE = "approvals:read", "approvals:decide"
WHY = {"reason": "checked with the gateway"}


@pytest.fixture
def strict(container: Container) -> TestClient:
    """A client of the application as in production: approvals are required."""
    container.settings = container.settings.model_copy(
        update={"require_approvals": True}
    )
    return TestClient(create_app(container))


def _post(client: TestClient, path: str, body: Any = None, **claims: Any) -> Result:
    return client.simulate_post(
        f"/v1/admin/{path}",
        json=WHY if body is None else body,
        headers=authorized(**claims),
    )


def _decide(client: TestClient, digest: str, how: str, sub: str = "bob") -> Result:
    scope = "approvals:break-glass" if how == "break-glass" else DECIDE
    return _post(client, f"approvals/{digest}/{how}", scope=scope, sub=sub)


def _resume(client: TestClient, **claims: Any) -> Result:
    return _post(client, "resume", **{"scope": "signing:stop", **claims})


def _listed(client: TestClient) -> Any:
    headers = authorized(scope=READ)
    listed = client.simulate_get("/v1/admin/approvals", headers=headers).json
    assert (listed["complete"], listed["changedRows"]) == (True, 0)
    return listed["approvals"]


@pytest.fixture
def stopped(strict: TestClient) -> TestClient:
    """A client of the application after a stop of everything."""
    assert _post(strict, "stop", scope="signing:stop").status_code == 200
    return strict


def test_a_stop_needs_one_person_and_its_end_two(
    stopped: TestClient, sqlite_store: SQLStore
) -> None:
    refused = _resume(stopped)
    (listed,) = _listed(stopped)
    own = _decide(stopped, listed["digest"], "approve", sub="alice")
    approved = _decide(stopped, listed["digest"], "approve")
    is_stopped = bool(sqlite_store.find_stop(1))
    resumed = _resume(stopped)

    assert (refused.status_code, refused.json["code"]) == (409, "approval-required")
    assert refused.json["digest"] == listed["digest"]
    assert refused.json["expires_at"] == listed["expiresAt"]
    assert (own.status_code, own.json["code"]) == (403, "same-person")
    assert approved.json["state"] == "approved"
    assert is_stopped
    assert resumed.json["status"] == "resumed"
    assert _listed(stopped) == []


def test_a_proposal_says_exactly_what_would_be_done(
    stopped: TestClient, clock: SettableClock
) -> None:
    _resume(stopped)
    (listed,) = _listed(stopped)

    assert listed == {
        "digest": listed["digest"],
        "state": "waiting",
        "proposal": {
            "action": "signing-resume",
            "chain_id": "0",
            "stopped_at": clock.now.isoformat(),
            "stopped_by": "token:alice",
            "stop_reason": WHY["reason"],
            "version": 0,
        },
        "reason": WHY["reason"],
        "requestedBy": "token:alice",
        "requestedAt": "2026-11-24T12:00:00.000000Z",
        "expiresAt": "2026-11-25T12:00:00.000000Z",
        "decidedBy": None,
        "decidedAt": None,
        "alone": False,
    }


def test_a_new_stop_needs_a_new_approval(stopped: TestClient) -> None:
    digest = _resume(stopped).json["digest"]
    _decide(stopped, digest, "approve")
    _resume(stopped)
    _post(stopped, "stop", scope="signing:stop")
    again = _resume(stopped)

    assert (again.status_code, again.json["code"]) == (409, "approval-required")
    assert again.json["digest"] != digest


def test_a_rejection_keeps_the_stop(
    stopped: TestClient, sqlite_store: SQLStore
) -> None:
    digest = _resume(stopped).json["digest"]
    rejected = _decide(stopped, digest, "reject")

    assert rejected.json["state"] == "rejected"
    assert _decide(stopped, digest, "approve").status_code == 409
    assert _resume(stopped).status_code == 409
    assert sqlite_store.find_stop(1)


def test_an_emergency_is_loud(stopped: TestClient, sqlite_store: SQLStore) -> None:
    digest = _resume(stopped).json["digest"]
    broken = _decide(stopped, digest, "break-glass", sub="alice")

    assert (broken.json["state"], broken.json["alone"]) == ("approved", True)
    assert _resume(stopped).json["status"] == "resumed"
    assert sqlite_store.alert_counts()["break-glass"]


def test_nothing_waits_for_one_person_outside_production(client: TestClient) -> None:
    _post(client, "stop", scope="signing:stop")

    assert _resume(client).json["status"] == "resumed"
    assert _listed(client) == []


def test_who_decides_may_not_break_the_glass(stopped: TestClient) -> None:
    """The emergency has a scope of its own."""
    digest = _resume(stopped).json["digest"]
    path = f"approvals/{digest}/break-glass"

    assert _post(stopped, path, scope=DECIDE, sub="bob").status_code == 403
