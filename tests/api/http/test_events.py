"""``GET /v1/events``, and the public keys of webhooks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.model.refund import Status
from signer.webhooks.signatures import PrivateKey
from tests.api.service import BODY, replaced
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.ledger import moved, refund_page


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
    (refund,) = refund_page(sqlite_store, "gateway-1").refunds
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
