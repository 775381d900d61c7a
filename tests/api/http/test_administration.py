"""
The routes of administrators that list, and what their changes do to tenants.

``tests/api/actions`` has what each action accepts, refuses and answers.
"""

import io
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.tenants import load_tenants
from signer.model.event import DeliveryState
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryAttempt
from tests.api.administrators import UNAUTHORIZED, authorized, post_as_admin
from tests.api.browser import build_console
from tests.api.service import BODY, Pace, build_container
from tests.api.support import SettableClock, get, lines, post
from tests.fixtures.ledger import accepted, forge, later
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.devices import honest
from tests.support.keys import key_at, made_active
from tests.support.ledgers import seal
from tests.support.refunds import CUSTOMER, KEY
from tests.support.ring import NEW, OLD


DELIVERIES = "/v1/admin/webhooks/deliveries"

WHY = {"reason": "odd refunds"}

LISTS = {
    "/v1/admin/keys": "keys:read",
    "/v1/admin/stops": "signing:stop",
    "/v1/admin/approvals": "approvals:read",
    DELIVERIES: "webhooks:read",
}


def _change(client: TestClient, path: str, scope: str, **claims: Any) -> Result:
    return post_as_admin(client, f"/v1/admin/{path}", WHY, scope=scope, **claims)


def _list(client: TestClient, path: str, query: str = "", **claims: Any) -> Result:
    headers = authorized(**{"scope": LISTS[path.partition("/evt_")[0]], **claims})
    return client.simulate_get(path, query_string=query, headers=headers)


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("role", ["admin", "devops"])
def test_lists_need_a_token_with_role_and_scope(
    sqlite_store: SQLStore, clock: SettableClock, path: str, role: str
) -> None:
    """Refusals are on record; ``tests/api/actions`` has the routes that change."""
    client = TestClient(create_app(build_console(sqlite_store, clock)))
    refused = [_list(client, path, **claims) for claims in UNAUTHORIZED.values()]
    without = client.simulate_get(path)
    seal(sqlite_store)
    records = [each.record.fields for each in sqlite_store.sealed(0, 99)]

    assert {each.status_code for each in refused} == {403}
    assert without.status_code == 401
    assert without.headers["www-authenticate"].startswith("Bearer")
    assert {(each["event"], each["operation"]) for each in records} == {
        ("admin-access-refused", "administration")
    }
    assert len(records) == len(UNAUTHORIZED) + 1
    assert _list(client, path, roles=[role]).status_code == 200


def test_the_active_key_is_the_first(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    """Each key has at most eight characters of its id."""
    for name, address in ((OLD, CUSTOMER), (NEW, "0x" + "1" * 40)):
        made_active(sqlite_store, key_at(address, key_id=name))
    answer = _list(client, "/v1/admin/keys")
    active, former, *_ = answer.json["keys"]

    assert [
        (each["keyId"], each["state"], each["epoch"]) for each in (active, former)
    ] == [("22222222...", "active", 3), ("11111111...", "draining", 2)]
    assert active.keys() == {
        *("keyId", "backend", "address", "state", "epoch", "requestedBy"),
        *("blockedBy", "createdAt", "updatedAt", "reinstatableUntil"),
    }
    assert OLD not in answer.text


def _dead(store: SQLStore, tenant: str = "shop") -> str:
    """Return an event of *tenant* whose delivery was given up."""
    accepted(store, tenant=tenant)
    store.sequence_events(9, utc_now(), lambda _: True)
    (due,) = store.claim_deliveries({tenant: 1}, 1, later(1), later(60))
    dead = DeliveryAttempt(due.delivery, DeliveryState.DEAD, utc_now(), "status-503")
    store.record_attempts([dead], utc_now())
    return due.delivery.event_id


def test_deliveries(client: TestClient, sqlite_store: SQLStore) -> None:
    """Newest first, by tenant, state and refund, page by page."""
    ids = [_dead(sqlite_store), _dead(sqlite_store, "other"), _dead(sqlite_store)]
    first = _list(client, DELIVERIES, "limit=2").json
    rest = _list(client, DELIVERIES, f"limit=2&cursor={first['nextCursor']}").json
    refund = rest["deliveries"][0]["refund"]

    assert [each["id"] for each in first["deliveries"]] == [ids[2], ids[1]]
    assert [each["id"] for each in rest["deliveries"]] == [ids[0]]
    assert rest["nextCursor"] is None
    for query, expected in (
        ("tenant=other", [ids[1]]),
        ("state=dead&tenant=shop", [ids[2], ids[0]]),
        ("state=pending", []),
        (f"refund={refund}", [ids[0]]),
    ):
        page = _list(client, DELIVERIES, query).json
        assert [each["id"] for each in page["deliveries"]] == expected, query


@pytest.mark.parametrize(
    "query", ["state=lost", "refund=rf_1", "cursor=x", "limit=201"]
)
def test_a_wrong_parameter(client: TestClient, query: str) -> None:
    """``test_every_field`` has unknown and repeated ones."""
    answer = _list(client, DELIVERIES, query)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid-input")


def test_one_delivery(client: TestClient, sqlite_store: SQLStore) -> None:
    """With its problem; the type is unknown if another program changed its row."""
    event_id = _dead(sqlite_store)
    found = _list(client, f"{DELIVERIES}/{event_id}").json
    forge(sqlite_store, "UPDATE webhook_deliveries SET tenant = 'other'")
    changed = _list(client, f"{DELIVERIES}/{event_id}").json

    assert (found["type"], found["state"]) == ("refund.accepted", "dead")
    assert (found["attempts"], found["problem"]) == (1, "status-503")
    assert found["authentic"] is True
    assert (changed["type"], changed["authentic"]) == (None, False)
    assert _list(client, f"{DELIVERIES}/evt_none").status_code == 404


def test_a_replay_of_what_is_not_delivered(
    container: Container, sqlite_store: SQLStore, tmp_path: Any
) -> None:
    """A tenant without a webhook is not found; the refusal is on record."""
    path = tmp_path / "tenants.toml"
    path.write_text('[tenants.other]\nsubjects = ["other-1"]\n', encoding="utf-8")
    container.tenants = load_tenants(path)
    client = TestClient(create_app(container))
    event_id = _dead(sqlite_store, "other")
    answers = [
        _change(client, f"webhooks/deliveries/{event_id}/replay", "webhooks:replay"),
        post_as_admin(
            client,
            "/v1/admin/webhooks/replay",
            {"tenant": "other"},
            scope="webhooks:replay",
        ),
    ]
    seal(sqlite_store)
    events = [each.record.fields["event"] for each in sqlite_store.sealed(0, 99)]

    assert {(each.status_code, each.json["code"]) for each in answers} == {
        (404, "not-found")
    }
    assert events.count("webhook-replay-refused") == 2


@pytest.fixture
def hosts(
    sqlite_store: SQLStore, clock: SettableClock, pace: Pace, node: ScriptedChain
) -> list[TestClient]:
    """Clients of two hosts, which share database and key."""
    device = honest(KEY)
    parts: dict[str, Any] = {"client": node, "pace": pace, "device": device}
    return [
        TestClient(create_app(build_container(sqlite_store, clock, **parts)))
        for _ in range(2)
    ]


@pytest.mark.parametrize(
    "target", [{}, {"network": "local"}, {"network": "local", "token": "TUSD"}]
)
def test_a_stop_holds_on_every_host_at_once(
    hosts: list[TestClient], node: ScriptedChain, target: dict[str, str]
) -> None:
    """The next refund on another host is accepted, and waits (R27)."""
    here, elsewhere = hosts
    scope, body = "signing:stop", {**WHY, **target}
    stopped = post_as_admin(here, "/v1/admin/stop", body, scope=scope)
    waiting = post(elsewhere, BODY)
    sent = len(node.broadcasts)
    resumed = post_as_admin(elsewhere, "/v1/admin/resume", body, scope=scope)
    paid = post(here, {**BODY, "payment_session_id": "ps_2"})

    assert (stopped.status_code, stopped.json["status"]) == (200, "stopped")
    assert stopped.json["stops"][0]["requestedBy"] == "token:alice"
    assert (waiting.status_code, waiting.json["status"]) == (201, "queued")
    assert sent == 0
    assert resumed.json["stops"] == []
    assert paid.json["status"] == "broadcast"


@pytest.mark.parametrize(
    ("body", "field"),
    [({"network": None}, "network"), ({"token": "TUSD"}, "token")],
)
def test_what_a_switch_cannot_mean(
    client: TestClient, sqlite_store: SQLStore, body: dict[str, Any], field: str
) -> None:
    """Neither null nor a token without its network stops everything."""
    for path in ("stop", "resume"):
        answer = post_as_admin(
            client, f"/v1/admin/{path}", {**WHY, **body}, scope="signing:stop"
        )
        assert (answer.status_code, answer.json.get("field")) == (400, field)
    assert sqlite_store.stops() == ()


@pytest.mark.parametrize("name", ["hotwallet%20sweep", "a" * 129, "%C3%A9"])
def test_names_that_no_tenant_has(
    client: TestClient, sqlite_store: SQLStore, name: str
) -> None:
    answer = _change(client, f"tenants/{name}/block", "tenants:block")

    assert (answer.status_code, answer.json["code"]) == (404, "not-found")
    assert sqlite_store.blocks() == ()


def test_a_repeated_request_is_refused_while_blocked(client: TestClient) -> None:
    """Its answer is the same as before after the block."""
    first = post(client, BODY, Idempotency_Key="key")
    _change(client, "tenants/gateway-1/block", "tenants:block")
    refused = post(client, BODY, Idempotency_Key="key")
    _change(client, "tenants/gateway-1/unblock", "tenants:block")
    again = post(client, BODY, Idempotency_Key="key")

    assert (refused.status_code, refused.json["code"]) == (403, "tenant-blocked")
    assert "www-authenticate" not in refused.headers
    assert (again.status_code, again.content) == (200, first.content)


def test_an_administrator_needs_no_tenant(client: TestClient, log: io.StringIO) -> None:
    """The log has the tenant of requests for refunds only."""
    _change(client, "tenants/gateway-1/block", "tenants:block")
    get(client, "/v1/refunds", sub="gateway-2")
    requests = [line for line in lines(log) if line["event"] == "request"]

    assert [each.get("tenant") for each in requests] == [None, "gateway-2"]
    assert [each["client"] for each in requests] == ["alice", "gateway-2"]


def test_a_stop_needs_one_person_and_its_end_two(
    container: Container, sqlite_store: SQLStore
) -> None:
    """As in production; who decides may not break the glass."""
    container.approvals.required = True
    client = TestClient(create_app(container))
    _change(client, "stop", "signing:stop")
    refused = _change(client, "resume", "signing:stop")
    (listed,) = _list(client, "/v1/admin/approvals").json["approvals"]
    decide = f"approvals/{listed['digest']}"
    own = _change(client, f"{decide}/approve", "approvals:decide")
    glass = _change(client, f"{decide}/break-glass", "approvals:decide", sub="bob")
    approved = _change(client, f"{decide}/approve", "approvals:decide", sub="bob")
    is_stopped = bool(sqlite_store.find_stop(1))
    resumed = _change(client, "resume", "signing:stop")

    assert (refused.status_code, refused.json["code"]) == (409, "approval-required")
    assert refused.json["digest"] == listed["digest"]
    assert refused.json["expires_at"] == listed["expiresAt"]
    assert (own.status_code, own.json["code"]) == (403, "same-person")
    assert glass.status_code == 403
    assert approved.json["state"] == "approved"
    assert is_stopped
    assert resumed.json["status"] == "resumed"
    assert _list(client, "/v1/admin/approvals").json["approvals"] == []
