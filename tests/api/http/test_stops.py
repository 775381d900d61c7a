"""``/v1/admin/stop``, ``/v1/admin/resume`` and ``/v1/admin/stops``."""

from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from tests.api.administrators import authorized
from tests.api.service import BODY, Pace, build_container
from tests.api.support import SettableClock, get, post
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.devices import honest
from tests.support.ledgers import seal
from tests.support.refunds import KEY


SCOPE = "signing:stop"
LOCAL = {"network": "local"}

WHY = {"reason": "odd refunds"}


@pytest.fixture
def hosts(
    sqlite_store: SQLStore, clock: SettableClock, pace: Pace, node: ScriptedChain
) -> list[TestClient]:
    """Clients of two hosts, which share database and key."""
    device = honest(KEY)
    return [
        TestClient(
            create_app(
                build_container(
                    sqlite_store, clock, client=node, pace=pace, device=device
                )
            )
        )
        for _ in range(2)
    ]


def _post(client: TestClient, path: str, body: Any, **claims: Any) -> Result:
    headers = authorized(**{"scope": SCOPE, **claims})
    return client.simulate_post(f"/v1/admin/{path}", json=body, headers=headers)


def _stops(client: TestClient, **claims: Any) -> Result:
    headers = authorized(**{"scope": SCOPE, **claims})
    return client.simulate_get("/v1/admin/stops", headers=headers)


def _events(store: SQLStore) -> list[tuple[str, str, str]]:
    seal(store)
    fields = [each.record.fields for each in store.sealed(0, 100)]
    return sorted(
        (each["event"], each["actor"], each["details"]["reason"])
        for each in fields
        if each["event"].startswith("signing-")
    )


@pytest.mark.parametrize(
    "body", [WHY, {**WHY, **LOCAL}, {**WHY, **LOCAL, "token": "TUSD"}]
)
def test_a_stop_holds_on_every_host_at_once(
    hosts: list[TestClient], node: ScriptedChain, body: Any
) -> None:
    """The next refund on another host is accepted, and waits (R27)."""
    here, elsewhere = hosts
    stopped = _post(here, "stop", body)
    waiting = post(elsewhere, BODY)
    sent = len(node.broadcasts)
    resumed = _post(elsewhere, "resume", body)
    paid = post(here, {**BODY, "payment_session_id": "ps_2"})

    assert (stopped.status_code, stopped.json["status"]) == (200, "stopped")
    assert (waiting.status_code, waiting.json["status"]) == (201, "queued")
    assert sent == 0
    assert resumed.json == {
        "status": "resumed",
        "network": body.get("network"),
        "token": body.get("token"),
        "stops": [],
    }
    assert paid.json["status"] == "broadcast"


@pytest.mark.parametrize("role", ["admin", "devops"])
def test_who_and_why_are_listed_and_audited(
    paying: TestClient, sqlite_store: SQLStore, role: str
) -> None:
    _post(paying, "stop", WHY, roles=[role])
    again = _post(paying, "stop", {"reason": "again"}, roles=[role])
    (stop,) = _stops(paying, roles=[role]).json["stops"]
    _post(paying, "resume", {"reason": "explained"}, roles=[role])

    assert again.json["status"] == "already-stopped"
    assert stop == {
        "network": None,
        "chainId": None,
        "token": None,
        "at": "2026-11-24T12:00:00.000000Z",
        "reason": "odd refunds",
        "requestedBy": "token:alice",
        "alert": None,
        "evidence": None,
        "authentic": True,
    }
    assert _events(sqlite_store) == sorted(
        (f"signing-{event}", "token:alice", reason)
        for event, reason in (
            ("stop-requested", "odd refunds"),
            ("stop-succeeded", "odd refunds"),
            ("stop-requested", "again"),
            ("stop-succeeded", "again"),
            ("resume-requested", "explained"),
            ("resume-succeeded", "explained"),
        )
    )
    assert _post(paying, "resume", WHY).json["status"] == "not-stopped"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({**WHY, "network": None}, 400, "network"),
        ({**WHY, "token": "TUSD"}, 400, "token"),
    ],
)
@pytest.mark.parametrize("path", ["stop", "resume"])
def test_a_bad_request_changes_nothing(
    paying: TestClient,
    sqlite_store: SQLStore,
    path: str,
    body: Any,
    status: int,
    field: str | None,
) -> None:
    answer = _post(paying, path, body)

    assert (answer.status_code, answer.json.get("field")) == (status, field)
    assert sqlite_store.stops() == ()


def test_a_mistyped_chain_does_not_end_the_stop_of_everything(
    paying: TestClient, sqlite_store: SQLStore
) -> None:
    _post(paying, "stop", WHY)
    answer = _post(paying, "resume", {**WHY, "network": "chain:local"})

    assert answer.status_code == 404
    assert [stop.in_force for stop in sqlite_store.stops()] == [True]


def test_refunds_can_be_read_and_cancelled(paying: TestClient) -> None:
    _post(paying, "stop", WHY)
    path = post(paying, BODY).headers["location"]

    assert get(paying, path).json["status"] == "queued"
