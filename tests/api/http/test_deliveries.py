"""The administrative routes of webhooks."""

import secrets
from collections import Counter
from pathlib import Path
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
from tests.api.support import bearer
from tests.fixtures.ledger import accepted, forge, later
from tests.support.ledgers import seal


LIST = "/v1/admin/webhooks/deliveries"
REPLAY = "/v1/admin/webhooks/replay"

TENANTS = """
[tenants.shop]
subjects = ["shop-1"]
webhook = { url = "https://shop.example/hook" }

[tenants.other]
subjects = ["other-1"]
"""


@pytest.fixture
def client(container: Container, tmp_path: Path) -> TestClient:
    """A client of an application with a tenant that has a webhook."""
    path = tmp_path / "tenants.toml"
    path.write_text(TENANTS, encoding="utf-8")
    container.tenants = load_tenants(path)
    return TestClient(create_app(container))


def _ask(
    client: TestClient, method: str, path: str, *, scope: str = "", **given: Any
) -> Result:
    scope = scope or ("webhooks:read" if method == "GET" else "webhooks:replay")
    headers = bearer(
        roles=["devops"], scope=scope, sub="alice", jti=secrets.token_hex(8)
    )
    return client.simulate_request(method, path, headers=headers, **given)


def _dead(store: SQLStore, tenant: str = "shop") -> str:
    """Return an event of *tenant* whose delivery was given up."""
    accepted(store, tenant=tenant)
    store.sequence_events(9, utc_now(), lambda _: True)
    (due,) = store.claim_deliveries({tenant: 1}, 1, later(1), later(60))
    dead = DeliveryAttempt(due.delivery, DeliveryState.DEAD, utc_now(), "status-503")
    store.record_attempts([dead], utc_now())
    return due.delivery.event_id


def test_a_list(client: TestClient, sqlite_store: SQLStore) -> None:
    """Newest first, by tenant, state and refund, page by page."""
    ids = [_dead(sqlite_store), _dead(sqlite_store, "other"), _dead(sqlite_store)]
    first = _ask(client, "GET", LIST, query_string="limit=2").json
    rest = _ask(
        client, "GET", LIST, query_string=f"limit=2&cursor={first['nextCursor']}"
    ).json
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
        page = _ask(client, "GET", LIST, query_string=query).json
        assert [each["id"] for each in page["deliveries"]] == expected, query


@pytest.mark.parametrize(
    "query", ["state=lost", "refund=rf_1", "cursor=x", "limit=201", "event=evt_1"]
)
def test_a_wrong_parameter(client: TestClient, query: str) -> None:
    answer = _ask(client, "GET", LIST, query_string=query)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid-input")


def test_one_delivery(client: TestClient, sqlite_store: SQLStore) -> None:
    """With its problem; the type is unknown if another program changed its row."""
    event_id = _dead(sqlite_store)
    found = _ask(client, "GET", f"{LIST}/{event_id}").json
    forge(sqlite_store, "UPDATE webhook_deliveries SET tenant = 'other'")
    changed = _ask(client, "GET", f"{LIST}/{event_id}").json

    assert (found["type"], found["state"]) == ("refund.accepted", "dead")
    assert (found["attempts"], found["problem"]) == (1, "status-503")
    assert found["authentic"] is True
    assert (changed["type"], changed["authentic"]) == (None, False)
    assert _ask(client, "GET", f"{LIST}/evt_none").status_code == 404


def test_a_replay(client: TestClient, sqlite_store: SQLStore) -> None:
    """It is due again, which can be repeated; request and outcome are on record."""
    event_id, other = _dead(sqlite_store), _dead(sqlite_store, "other")
    done = _ask(client, "POST", f"{LIST}/{event_id}/replay")
    again = _ask(client, "POST", f"{LIST}/{event_id}/replay")
    refused = _ask(client, "POST", f"{LIST}/{other}/replay")

    assert (done.status_code, done.json["state"]) == (200, "pending")
    assert (again.status_code, again.json["attempts"]) == (200, 0)
    assert (refused.status_code, refused.json["code"]) == (404, "not-found")
    assert _audited(sqlite_store) == {
        "webhook-replay-requested": 3,
        "webhook-replay-succeeded": 2,
        "webhook-replay-refused": 1,
    }


def _audited(store: SQLStore) -> Counter[str]:
    """Return how many records of replays there are; all name the administrator."""
    seal(store)
    records = [each.record.fields for each in store.sealed(0, 99)]
    replays = [each for each in records if each["event"].startswith("webhook-replay")]
    assert {each["actor"] for each in replays} <= {"token:alice"}
    return Counter(each["event"] for each in replays)


def test_a_replay_of_what_was_given_up(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    for _ in range(2):
        _dead(sqlite_store)
    _dead(sqlite_store, "other")
    done = _ask(client, "POST", REPLAY, json={"tenant": "shop"})
    again = _ask(client, "POST", REPLAY, json={"tenant": "shop"})
    refused = _ask(client, "POST", REPLAY, json={"tenant": "other"})

    assert done.json == {"tenant": "shop", "count": 2, "complete": True}
    assert again.json == {"tenant": "shop", "count": 0, "complete": True}
    assert (refused.status_code, refused.json["code"]) == (404, "not-found")


@pytest.mark.parametrize(
    "body",
    [{}, {"tenant": 1}, {"tenant": ""}, {"tenant": "a b"}, {"tenant": "a", "b": 1}],
    ids=str,
)
def test_a_wrong_body(
    client: TestClient, sqlite_store: SQLStore, body: dict[str, Any]
) -> None:
    answer = _ask(client, "POST", REPLAY, json=body)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid-input")
    assert not _audited(sqlite_store)
