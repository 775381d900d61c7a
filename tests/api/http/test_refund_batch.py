"""Many refunds in one request: each is accepted or refused by itself (R31)."""

import io
import json
from typing import Any

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.http.app import create_app
from api.http.body import MAX_BATCH
from api.views.requests import MAX_MEMBERS
from backends.sql import SQLStore
from signer.model.hold import Hold
from tests.api.batches import codes, member, send, statuses, stored, submit, without_key
from tests.api.service import BODY, RECIPIENT
from tests.api.support import NOW, SettableClock, bearer, get, lines, post
from tests.support.ledgers import seal


def test_accepts_each_member(client: TestClient, sqlite_store: SQLStore) -> None:
    """In the order of the request, each as the single route would answer."""
    answer = submit(client, *(member(n) for n in (2, 1, 3)))
    results = answer.json["results"]

    assert answer.status_code == 200
    assert [each["idempotency_key"] for each in results] == ["key-2", "key-1", "key-3"]
    assert statuses(answer) == [201] * 3
    assert [each["refund"]["reference"] for each in results] == ["ps_2", "ps_1", "ps_3"]
    assert {each["refund"]["status"] for each in results} == {"queued"}
    assert {each["refund"]["id"] for each in results} == {
        each["id"] for each in stored(client)
    }
    assert all(
        get(client, f"/v1/refunds/{each['refund']['id']}").json == each["refund"]
        for each in results
    )
    seal(sqlite_store)
    records = [each.record.fields for each in sqlite_store.sealed(0, 100)]
    assert {record["event"] for record in records} == {"refund-accept-succeeded"}
    assert sorted(record["details"]["refund_id"] for record in records) == sorted(
        each["refund"]["id"] for each in results
    )


def test_one_bad_member_does_not_affect_the_others(client: TestClient) -> None:
    """Each refusal is the problem document that the single route answers."""
    bad = [
        member(2, amount="-1"),
        member(3, amount=12.5),
        member(4, amount="1001"),
        member(5, recipient=RECIPIENT.lower()),
        member(6, token=...),
        member(7, colour="red"),
        member(8, reason="two\nlines"),
        member(9, network="mars"),
    ]
    answer = submit(client, member(1), *bad, member(10), X_Request_Id="mine")
    first, *refused, last = answer.json["results"]
    single = [
        post(
            client,
            without_key(each),
            Idempotency_Key=each["idempotency_key"],
            X_Request_Id="mine",
        )
        for each in bad
    ]

    assert (first["status"], last["status"]) == (201, 201)
    assert [each["problem"] for each in refused] == [each.json for each in single]
    assert [each["status"] for each in refused] == [s.status_code for s in single]
    assert [each["problem"].get("field") for each in refused] == [
        "amount",
        "amount",
        None,
        "recipient",
        "token",
        "colour",
        "reason",
        None,
    ]
    assert len(stored(client)) == 2


def test_a_repeated_batch_gets_the_same_refunds(
    client: TestClient, clock: SettableClock
) -> None:
    """In any order and grouping (R3, R31)."""
    first = submit(client, *(member(n) for n in range(6)))
    documents = {
        each["idempotency_key"]: each["refund"] for each in first.json["results"]
    }
    clock.advance(60)
    again = submit(
        client, *(member(n) for n in reversed(range(6))), **bearer(clock.now)
    )
    parts = [
        submit(client, *(member(n) for n in part), **bearer(clock.now))
        for part in ((0, 3, 7), (5,))
    ]
    repeated = [
        each
        for answer in (again, *parts)
        for each in answer.json["results"]
        if each["idempotency_key"] in documents
    ]

    assert statuses(again) == [200] * 6
    assert [statuses(part) for part in parts] == [[200, 200, 201], [200]]
    assert [each["refund"] for each in repeated] == [
        documents[each["idempotency_key"]] for each in repeated
    ]
    assert len(stored(client)) == 7


def test_a_batch_and_the_single_route_share_keys(paying: TestClient) -> None:
    """Either gets the refund of the other, and nothing is accepted twice."""
    single = post(paying, without_key(member(1)), Idempotency_Key="key-1")
    answer = submit(paying, member(1), member(2))
    one, two = answer.json["results"]
    again = post(paying, without_key(member(2)), Idempotency_Key="key-2")

    assert single.json["status"] == "broadcast"
    assert (one["status"], two["status"], again.status_code) == (200, 201, 200)
    assert one["refund"] == single.json
    assert (again.json["id"], again.json["status"]) == (
        two["refund"]["id"],
        "broadcast",
    )
    assert len(stored(paying)) == 2


def test_conflicts_are_results(client: TestClient) -> None:
    """A key with another request; a reference that two members have."""
    submit(client, member(1))
    answer = submit(
        client,
        member(1, amount="1"),
        member(2, reference="r"),
        member(3, reference="r"),
    )
    _, first, second = answer.json["results"]

    assert statuses(answer) == [409, 201, 409]
    assert codes(answer) == ["idempotency-mismatch", None, "conflict"]
    assert second["problem"]["refund_id"] == first["refund"]["id"]


_BAD: dict[str, tuple[Any, str | None]] = {
    "no list": ({}, "refunds"),
    "an object": ({"refunds": {}}, "refunds"),
    "null": ({"refunds": None}, "refunds"),
    "empty": ({"refunds": []}, "refunds"),
    "more": ({"refunds": [member()], "wait": 1}, None),
    "a text": ({"refunds": [member(), "x"]}, "refunds.1"),
    "no key": ({"refunds": [member(), {}]}, "refunds.1.idempotency_key"),
    "empty key": (
        {"refunds": [member(idempotency_key="")]},
        "refunds.0.idempotency_key",
    ),
    "number as key": (
        {"refunds": [member(idempotency_key=1)]},
        "refunds.0.idempotency_key",
    ),
    "fraction as key": (
        {"refunds": [member(idempotency_key=1.5)]},
        "refunds.0.idempotency_key",
    ),
    "long key": (
        {"refunds": [member(idempotency_key="k" * 256)]},
        "refunds.0.idempotency_key",
    ),
    "key with a space": (
        {"refunds": [member(idempotency_key="a b")]},
        "refunds.0.idempotency_key",
    ),
    "same key": (
        {"refunds": [member(1), member(2), member(3, idempotency_key="key-1")]},
        "refunds.2.idempotency_key",
    ),
    "too many": (
        {"refunds": [member(n) for n in range(MAX_MEMBERS + 1)]},
        "refunds",
    ),
    "not JSON": ("{", None),
    "no object": ([member()], None),
    "deep": ({"refunds": [member(reason=json.loads("[" * 20 + "]" * 20))]}, None),
    "field twice": ('{"refunds": [{"token": "a", "token": "a"}]}', "token"),
}


@pytest.mark.parametrize("case", _BAD)
def test_a_malformed_batch_changes_nothing(client: TestClient, case: str) -> None:
    body, field = _BAD[case]
    answer = send(client, body)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid-input")
    assert answer.json.get("field") == field
    assert stored(client) == []


def test_a_large_batch(client: TestClient) -> None:
    """500 members, and none above 1 MiB; other routes still take 16 KiB."""
    members = [member(n, reason="x" * 250) for n in range(MAX_MEMBERS)]
    accepted = submit(client, *members)
    padding = " " * MAX_BATCH
    too_large = [
        send(client, json.dumps({"refunds": [member(1)]}) + padding),
        post(client, json.dumps(BODY) + padding[: 17 * 1024]),
    ]

    assert statuses(accepted) == [201] * MAX_MEMBERS
    assert {each.status_code for each in too_large} == {413}
    assert {each.json["code"] for each in too_large} == {"body-too-large"}


def test_a_blocked_tenant_is_refused_as_a_whole(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    sqlite_store.begin_hold(Hold.of_tenant("gateway-1", NOW, "", "token:alice"))
    answer = submit(client, member(1))

    assert (answer.status_code, answer.json["code"]) == (403, "tenant-blocked")
    assert stored(client) == []


def test_an_accepted_member_stays_accepted_when_the_rules_change(
    client: TestClient, container: Container
) -> None:
    first = submit(client, member(1), member(2))
    del container.refunds
    container.networks = {}
    changed = TestClient(create_app(container))
    answer = submit(changed, member(2), member(3))

    assert statuses(answer) == [200, 422]
    assert answer.json["results"][0]["refund"] == first.json["results"][1]["refund"]


def test_preferences_and_the_key_of_the_request_are_ignored(
    paying: TestClient,
) -> None:
    """The answer waits for nothing; each member has its own key."""
    answer = submit(paying, member(1), member(2), Prefer="wait=20", Idempotency_Key="k")

    assert statuses(answer) == [201, 201]
    assert {each["refund"]["status"] for each in answer.json["results"]} == {"queued"}
    assert "preference-applied" not in answer.headers


def test_the_log_has_no_content(client: TestClient, log: io.StringIO) -> None:
    submit(client, member(1, amount="1001"), member(2, reason="canary-text"))
    (request,) = (each for each in lines(log) if each["event"] == "request")

    assert request["route"] == "/v1/refunds/batch"
    assert "canary-text" not in log.getvalue()
