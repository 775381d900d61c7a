"""``GET /v1/events``, and the answers of repeated requests."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.model.refund import Status
from signer.webhooks.signatures import PrivateKey
from tests.api.service import BODY, Pace, replaced
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.ledger import moved, stopped
from tests.fixtures.scripted_chain import ScriptedChain


def _listed(client: TestClient, query: str = "", **headers: str) -> Result:
    given = {**bearer(), **headers}
    return client.simulate_get("/v1/events", query_string=query, headers=given)


@pytest.fixture
def sequence(sqlite_store: SQLStore, clock: SettableClock) -> Any:
    """Return a function that sequences events, as a worker does."""
    return lambda: sqlite_store.sequence_events(9, clock(), lambda _: False)


def test_events_are_listed_in_pages(
    client: TestClient, sqlite_store: SQLStore, sequence: Any
) -> None:
    """Each is the refund as it was; the last page's cursor continues."""
    answer = post(client, BODY, Prefer="respond-async").json
    (refund,) = sqlite_store.list("gateway-1").refunds
    moved(sqlite_store, refund, Status.CANCELLED)
    sequence()
    first = _listed(client, "limit=1").json
    second = _listed(client, f"limit=1&after={first['next_cursor']}").json
    third = _listed(client, f"after={second['next_cursor']}").json

    (accepted,), (cancelled,) = first["events"], second["events"]
    assert accepted["data"] == answer
    assert accepted["type"] == "refund.accepted"
    assert accepted["id"].startswith("evt_")
    assert accepted["timestamp"] == answer["updated_at"]
    assert str(accepted["sequence"]) == first["next_cursor"]
    assert cancelled["type"] == "refund.cancelled"
    path = f"/v1/refunds/{refund.id}"
    assert cancelled["data"] == get(client, path).json
    assert third == {"events": [], "next_cursor": second["next_cursor"]}


def test_another_tenants_events_are_not_listed(
    client: TestClient, sequence: Any
) -> None:
    post(client, BODY, Prefer="respond-async")
    sequence()
    other = bearer(sub="gateway-2")

    assert _listed(client).json["events"]
    assert client.simulate_get("/v1/events", headers=other).json == {
        "events": [],
        "next_cursor": "0",
    }


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=-1", "after"),
        ("after=x", "after"),
        ("after=1" + "0" * 16, "after"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
    ],
)
def test_parameters_out_of_range(client: TestClient, query: str, field: str) -> None:
    answer = _listed(client, query)

    assert (answer.status_code, answer.json["field"]) == (400, field)


def test_an_empty_page_waits_for_an_event(client: TestClient, sequence: Any) -> None:
    """With ``Prefer: wait=N``, until there is one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_listed, client, Prefer="wait=20")
        post(client, BODY, Prefer="respond-async")
        sequence()
        answer = waiting.result()

    assert [each["type"] for each in answer.json["events"]] == ["refund.accepted"]
    assert answer.headers.get("preference-applied") in {None, "wait=20"}


def test_a_wait_ends(client: TestClient) -> None:
    """Without an event the page is empty, and the cursor stays."""
    answer = _listed(client, "after=7", Prefer="wait=0")

    assert answer.json == {"events": [], "next_cursor": "7"}
    assert answer.headers["preference-applied"] == "wait=0"


def test_a_page_with_events_does_not_wait(client: TestClient, sequence: Any) -> None:
    post(client, BODY, Prefer="respond-async")
    sequence()

    assert "preference-applied" not in _listed(client, Prefer="wait=20").headers


def test_a_wait_that_is_not_possible(container: Container) -> None:
    """With one thread the answer comes at once, as RFC 7240 allows."""
    settings = container.settings.model_copy(update={"threads": 1})
    client = TestClient(create_app(replaced(container, settings=settings)))

    assert "preference-applied" not in _listed(client, Prefer="wait=20").headers


def test_the_keys_are_public(container: Container, tmp_path: Path) -> None:
    """A JSON Web Key Set, without a token; none if none is configured."""
    keys = [PrivateKey.generate().public for _ in range(2)]
    client = TestClient(create_app(replaced(container, webhook_public_keys=keys)))
    answer = client.simulate_get("/v1/webhooks/keys")

    assert answer.status_code == 200
    assert [each["kid"] for each in answer.json["keys"]] == [key.id for key in keys]
    assert {each["crv"] for each in answer.json["keys"]} == {"Ed25519"}
    assert client.simulate_get("/v1/webhooks/keys", query_string="x=1").status_code == (
        400
    )


# A repeated request gets the refund as it is now, and pays nothing again.

KEY = {"Idempotency_Key": "k"}


def test_a_repeated_request_gets_the_refund(
    paying: TestClient, node: ScriptedChain, clock: SettableClock
) -> None:
    """R3: also a month later."""
    first = post(paying, BODY, **KEY)
    clock.advance(timedelta(days=31).total_seconds())
    body = json.dumps(dict(reversed(BODY.items())), indent=1)
    headers = bearer(clock.now) | {"Content_Type": "application/json; charset=UTF-8"}
    again = [post(paying, body, **KEY, **headers) for _ in range(2)]

    assert first.json["status"] == "broadcast"
    assert [each.json for each in again] == [first.json] * 2
    assert {each.status_code for each in again} == {200}
    assert {each.headers["idempotent-replayed"] for each in again} == {"true"}
    assert {each.headers["content-type"] for each in again} == {"application/json"}
    assert {each.headers["location"] for each in again} == {first.headers["location"]}
    assert len(node.broadcasts) == 1


def test_a_repeated_answer_has_the_present_status(
    paying: TestClient, clock: SettableClock, sqlite_store: SQLStore
) -> None:
    stopped(sqlite_store, at=clock.now)
    first = post(paying, BODY, **KEY)
    clock.advance(1)
    path = first.headers["location"]
    paying.simulate_post(f"{path}/cancel", headers=bearer(clock.now))
    replayed = post(paying, BODY, **KEY)

    assert first.json["status"] == "queued"
    assert replayed.json["status"] == "cancelled"
    assert replayed.json == get(paying, path).json


def test_a_repetition_meets_the_first_request(client: TestClient, pace: Pace) -> None:
    """R1: while the first one waits for its end, a second one gets the same refund."""
    seconds: list[Result] = []
    pace.meanwhile = lambda: seconds.append(
        post(client, BODY, Prefer="respond-async", **KEY)
    )
    first = post(client, BODY, Prefer="wait=1", **KEY)

    assert first.status_code == 201
    assert {each.status_code for each in seconds} == {200}
    assert {each.json["id"] for each in seconds} == {first.json["id"]}
    applied = {each.headers["preference-applied"] for each in seconds}
    assert applied == {"respond-async"}


def test_a_mismatch_meets_the_first_request(client: TestClient, pace: Pace) -> None:
    """R2"""
    seconds: list[Result] = []
    other = BODY | {"amount": "1"}
    pace.meanwhile = lambda: seconds.append(post(client, other, **KEY))
    post(client, BODY, Prefer="wait=1", **KEY)

    assert {each.json["code"] for each in seconds} == {"idempotency-mismatch"}


def test_a_repetition_waits_for_the_end(
    paying: TestClient,
    paying_container: Container,
    node: ScriptedChain,
    pace: Pace,
) -> None:
    """As long as it asks for, though the first request did not wait."""
    first = post(paying, BODY, **KEY)

    def meanwhile() -> None:
        for _ in range(3):
            node.mine()
        paying_container.worker.work()

    pace.meanwhile = meanwhile
    again = post(paying, BODY, Prefer="wait=10", **KEY)

    assert first.json["status"] == "broadcast"
    assert again.headers["preference-applied"] == "wait=10"
    assert (again.status_code, again.json["status"]) == (200, "confirmed")


@pytest.mark.parametrize("wait", ["await_broadcast", "wait"])
def test_a_repetition_answers_for_a_request_that_died(
    paying: TestClient,
    paying_container: Container,
    monkeypatch: pytest.MonkeyPatch,
    wait: str,
) -> None:
    """It need not wait for anything."""

    def died(*_: object) -> None:
        raise RuntimeError("killed")

    prefer = {} if wait == "await_broadcast" else {"Prefer": "wait=10"}
    with monkeypatch.context() as patch:
        patch.setattr(paying_container.refunds, wait, died)
        assert post(paying, BODY, **KEY, **prefer).status_code == 500
    again = post(paying, BODY, **KEY)

    assert (again.status_code, again.json["status"]) == (200, "broadcast")
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock_delays_no_request(
    client: TestClient, clock: SettableClock, hours: int
) -> None:
    """R30"""
    first = post(client, BODY, **KEY)
    clock.advance(hours * 3600)
    answer = post(client, BODY, **KEY, **bearer(clock.now))

    assert (answer.status_code, answer.json["id"]) == (200, first.json["id"])
