"""Refunds above an amount: tenants see that they wait, and administrators decide."""

from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.tenants import NetworkLimits, Tenant, TenantRegistry, TokenLimits
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.api.administrators import authorized
from tests.api.service import BODY, NETWORKS, Pace, build_container
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.approvals import rule


WHY = {"reason": "checked with the gateway"}
SMALL = {**BODY, "payment_session_id": "small", "amount": "10"}


@pytest.fixture
def client(
    sqlite_store: SQLStore, clock: SettableClock, pace: Pace, node: ScriptedChain
) -> TestClient:
    """A client of a service whose tenant may pay 10 tokens without an approval."""
    limits = NetworkLimits(tokens={"TUSD": TokenLimits(approve_above="10")})
    tenant = Tenant(subjects=("gateway-1",), networks={"local": limits})
    container = build_container(
        sqlite_store,
        clock,
        client=node,
        pace=pace,
        tenants=TenantRegistry({"gateway-1": tenant}),
    )
    application = TestClient(create_app(container))
    application.work = container.worker.work  # type: ignore[attr-defined]
    return application


def _decide(
    client: TestClient, how: str, sub: str = "bob", scope: str = "approvals:decide"
) -> Result:
    listing = authorized(scope="approvals:read")
    (listed,) = client.simulate_get("/v1/admin/approvals", headers=listing).json[
        "approvals"
    ]
    return client.simulate_post(
        f"/v1/admin/approvals/{listed['digest']}/{how}",
        json=WHY,
        headers=authorized(scope=scope, sub=sub),
    )


def _work(client: TestClient) -> None:
    client.work()  # type: ignore[attr-defined]


@pytest.mark.parametrize("prefer", [None, "respond-async", "wait=1"])
def test_the_answer_says_that_it_waits(client: TestClient, prefer: str | None) -> None:
    """With each preference, and again when the request is repeated."""
    headers = {"Idempotency_Key": "one"}
    headers |= {} if prefer is None else {"Prefer": prefer}
    created = post(client, BODY, **headers)
    _decide(client, "approve")
    _work(client)
    again = post(client, BODY, **headers)
    path = created.headers["location"]

    assert (created.status_code, created.json["status"]) == (201, "awaiting-approval")
    assert (again.status_code, again.json["id"]) == (200, created.json["id"])
    assert get(client, path).json["status"] == "broadcast"


def test_the_tenant_finds_it_in_lists_and_events(
    client: TestClient, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """That it waits, and what became of it; webhooks get the same events."""
    created, small = post(client, BODY).json, post(client, SMALL).json
    listed = get(client, "/v1/refunds?status=awaiting-approval").json
    _decide(client, "reject")
    _work(client)
    sqlite_store.sequence_events(9, clock(), lambda _: False)
    events = get(client, "/v1/events").json["events"]

    assert [each["id"] for each in listed["refunds"]] == [created["id"]]
    assert small["status"] == "broadcast"
    assert [each["type"] for each in events if each["data"]["id"] == created["id"]] == [
        "refund.awaiting_approval",
        "refund.refused",
    ]


@pytest.mark.parametrize(
    ("how", "status", "failure"),
    [("approve", "broadcast", None), ("reject", "refused", "approval-rejected")],
)
def test_an_administrator_decides(
    client: TestClient, how: str, status: str, failure: str | None
) -> None:
    path = post(client, BODY).headers["location"]
    decided = _decide(client, how)
    _work(client)
    refund = get(client, path).json

    assert decided.status_code == 200
    assert decided.json["proposal"]["refund_id"] == refund["id"]
    assert refund["status"] == status
    assert (refund["failure"] or {}).get("code") == failure


def test_a_batch_has_refunds_that_wait(client: TestClient) -> None:
    """Each refund of a batch is compared with the amount by itself."""
    rows: list[dict[str, Any]] = [
        {"idempotency_key": name, **body, "reference": name}
        for name, body in (("large", BODY), ("small", SMALL))
    ]
    answer = client.simulate_post(
        "/v1/refunds/batch", json={"refunds": rows}, headers=bearer()
    )

    assert [each["refund"]["status"] for each in answer.json["results"]] == [
        "awaiting-approval",
        "queued",
    ]


@pytest.fixture
def own_rule() -> str:
    """The operator's rule: it demands two approvals."""
    return rule("two", 2)


@pytest.fixture
def ruled_client(
    sqlite_store: SQLStore,
    clock: SettableClock,
    pace: Pace,
    node: ScriptedChain,
    own_rule: str,
) -> TestClient:
    files = service_files(NETWORKS, TenantRegistry())
    own = PolicyFile("own.cedar", own_rule)
    container = build_container(
        sqlite_store,
        clock,
        client=node,
        pace=pace,
        policy=Policy.compile(files, [own]),
    )
    application = TestClient(create_app(container))
    application.work = container.worker.work  # type: ignore[attr-defined]
    return application


def test_two_people_approve_what_a_rule_demands(ruled_client: TestClient) -> None:
    """The list shows the rule and who has approved; the preview what is needed."""
    preview = ruled_client.simulate_post(
        "/v1/refunds/preview", json=BODY, headers=bearer()
    ).json
    created = post(ruled_client, BODY)
    first = _decide(ruled_client, "approve")
    again = _decide(ruled_client, "approve")
    _work(ruled_client)
    waits = get(ruled_client, created.headers["location"]).json["status"]
    second = _decide(ruled_client, "approve", sub="carol")
    _work(ruled_client)

    assert (preview["outcome"], preview["needs_approval"]) == ("wait", True)
    assert preview["waits_for"] == ["approval-required"]
    assert preview["policy"] == {
        "verdict": "needs-approval",
        "rules": ["two"],
        "approvals": 2,
    }
    assert created.json["status"] == waits == "awaiting-approval"
    assert first.json["state"] == "waiting"
    assert first.json["proposal"]["rules"].startswith("two@")
    assert first.json["proposal"]["approvals"] == "2"
    assert (again.status_code, again.json["code"]) == (403, "same-person")
    assert second.json["state"] == "approved"
    assert second.json["decidedBy"] == "token:bob token:carol"
    status = get(ruled_client, created.headers["location"]).json["status"]
    assert status == "broadcast"


@pytest.mark.parametrize("own_rule", [rule("one", 1, group="finance")], ids=["finance"])
def test_a_scope_makes_an_approver_of_a_group(ruled_client: TestClient) -> None:
    """The proposal names the group, and other administrators cannot approve it."""
    created = post(ruled_client, BODY)
    *refused, approved = (
        _decide(ruled_client, "approve", scope=scope)
        for scope in (
            "approvals:decide",
            "approvals:decide approver:finances",
            "approver:finance",
            "approvals:decide approver:legal approver:finance",
        )
    )
    _work(ruled_client)

    assert [each.json["code"] for each in refused] == ["forbidden"] * 3
    assert "approver:finance" in refused[0].json["detail"]
    assert approved.json["proposal"]["approvers"] == "finance"
    assert approved.json["state"] == "approved"
    status = get(ruled_client, created.headers["location"]).json["status"]
    assert status == "broadcast"
