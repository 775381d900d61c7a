"""The routes of refunds."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from backends.sql import SQLStore
from signer.model.refund import Status
from tests.api.service import BODY, RECIPIENT, TOKEN_ADDRESS
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.ledger import save, step_to


def _post(client: TestClient, body: Any = BODY, **headers: str) -> Result:
    return post(client, body, **headers)


def _stored(client: TestClient) -> int:
    return len(get(client, "/v1/refunds").json["refunds"])


def test_creates_a_refund(client: TestClient) -> None:
    """201 with the location and the whole refund."""
    response = _post(client, BODY | {"reason": "Ware beschädigt 🙁"})

    document = response.json
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/refunds/{document['id']}"
    assert "idempotent-replayed" not in response.headers
    assert document == {
        "id": document["id"],
        "status": "queued",
        "reference": "ps_1",
        "payment_session_id": "ps_1",
        "network": "local",
        "chain_id": 31337,
        "token": "TUSD",
        "token_address": TOKEN_ADDRESS,
        "recipient": RECIPIENT,
        "amount": "12.500000",
        "calldata": None,
        "reason": "Ware beschädigt 🙁",
        "sender": None,
        "nonce": None,
        "tx_hash": None,
        "block_number": None,
        "failure": None,
        "created_at": "2026-11-24T12:00:00.000000Z",
        "updated_at": "2026-11-24T12:00:00.000000Z",
        "cancel_requested_at": None,
    }


@pytest.mark.parametrize(
    ("key", "changes", "code"),
    [("k", {"amount": "12.51"}, "idempotency-mismatch"), ("other", {}, "conflict")],
)
def test_a_payment_session_is_refunded_once(
    client: TestClient, key: str, changes: dict[str, str], code: str
) -> None:
    """By default it is the reference; the answer names the earlier refund."""
    first = _post(client, Idempotency_Key="k")
    response = _post(client, BODY | changes, Idempotency_Key=key)

    assert (response.status_code, response.json["code"]) == (409, code)
    assert response.json["refund_id"] == first.json["id"]
    assert _stored(client) == 1


def test_clients_are_separate(client: TestClient) -> None:
    """Keys, references, refunds and lists of one client do not affect another."""
    mine = _post(client, Idempotency_Key="k")
    theirs = _post(client, Idempotency_Key="k", **bearer(sub="gateway-2"))
    path, other = mine.headers["location"], bearer(sub="gateway-2")
    stolen = [
        client.simulate_get(path, headers=other),
        client.simulate_get(f"{path}/explain", headers=other),
        client.simulate_post(f"{path}/cancel", headers=other),
    ]
    listed = get(client, "/v1/refunds", sub="gateway-2").json["refunds"]

    assert theirs.status_code == 201
    assert {(a.status_code, a.json["code"]) for a in stolen} == {(404, "not-found")}
    assert get(client, path).json == mine.json
    assert [theirs.json] == listed


def test_a_refused_refund_has_code_and_detail(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    refund_id = _post(client).json["id"]
    before = sqlite_store.get(refund_id)
    assert before is not None
    after = step_to(
        before,
        Status.REFUSED,
        before.updated_at + timedelta(seconds=1),
        failure_code="execution-reverted",
        failure_detail="the token is paused",
    )
    save(sqlite_store, before, after)

    document = get(client, f"/v1/refunds/{refund_id}").json
    assert document["status"] == "refused"
    assert document["updated_at"] == "2026-11-24T12:00:01.000000Z"
    assert document["failure"] == {
        "code": "execution-reverted",
        "detail": "the token is paused",
    }


# One of each kind: ``tests/unit/signer`` has every malformed amount (``test_amounts``),
# address, field (``test_request_body``) and JSON (``test_strict_json``).
_BAD_BODIES: dict[str, tuple[Any, str | None]] = {
    # T9: an amount is a decimal string, and one that fits.
    "amount float": (BODY | {"amount": 1.0}, "amount"),
    "amount number with exponent": (
        json.dumps(BODY).replace('"12.50"', "1e18"),
        "amount",
    ),
    "amount zero": (BODY | {"amount": "0"}, "amount"),
    "amount 2**256": (BODY | {"amount": str(2**256)}, "amount"),
    "amount too fine": (BODY | {"amount": "1.0000001"}, "amount"),
    "amount NaN": (json.dumps(BODY).replace('"12.50"', "NaN"), "amount"),
    "amount twice": (json.dumps(BODY)[:-1] + ', "amount": "13"}', "amount"),
    # T10: an address has its checksum.
    "recipient in lower case": (BODY | {"recipient": RECIPIENT.lower()}, "recipient"),
    "recipient zero": (BODY | {"recipient": "0x" + "0" * 40}, "recipient"),
    "recipient the token": (BODY | {"recipient": TOKEN_ADDRESS}, "recipient"),
    # H14, and the form of everything else.
    "unknown field": (BODY | {"fee": "1"}, "fee"),
    "unknown field with a bad name": (BODY | {"<b>": "1"}, None),
    "missing field": ({k: v for k, v in BODY.items() if k != "token"}, "token"),
    "session list": (BODY | {"payment_session_id": ["ps_1"]}, "payment_session_id"),
    "reason with half a pair": (
        json.dumps(BODY)[:-1] + ', "reason": "\\ud800"}',
        "reason",
    ),
    "deeply nested": ("[" * 8000, None),
    "list": ([BODY], None),
    "no JSON": ("payment_session_id=ps_1", None),
    "empty": ("", None),
    "not UTF-8": (b'{"reason": "\xff"}', None),
}


@pytest.mark.parametrize("name", _BAD_BODIES)
def test_malformed_input_is_refused(client: TestClient, name: str) -> None:
    """H12: 400 with the name of the field; nothing is stored."""
    body, field = _BAD_BODIES[name]
    response = _post(client, body)

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["code"] == "invalid-input"
    assert response.json.get("field") == field
    assert _stored(client) == 0


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"network": "mainnet"}, "network"),
        ({"token": "USDX"}, "token"),
        ({"amount": "1000.000001"}, "max-amount"),
    ],
)
def test_the_policy_names_the_broken_rule(
    client: TestClient, changes: dict[str, str], rule: str
) -> None:
    response = _post(client, BODY | changes)

    assert (response.status_code, response.json["rule"]) == (422, rule)
    assert _stored(client) == 0


@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 256, "ä", "a\tb"])
def test_an_idempotency_key_is_required(client: TestClient, key: str) -> None:
    response = _post(client, Idempotency_Key=key)

    assert (response.status_code, response.json["field"]) == (400, "Idempotency-Key")
    assert _stored(client) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "application/json; charset=latin-1"},
        {"Content_Type": "application/problem+json"},
        {"Content_Type": ""},
        {"Content_Encoding": "gzip"},
        {"Content_Encoding": "identity"},
    ],
    ids=str,
)
def test_only_plain_json_is_accepted(
    client: TestClient, headers: dict[str, str]
) -> None:
    response = _post(client, **headers)

    assert (response.status_code, response.json["status"]) == (415, 415)
    assert _stored(client) == 0


def test_a_body_has_at_most_16_kib(client: TestClient) -> None:
    text = json.dumps(BODY)
    fits = _post(client, text + " " * (16 * 1024 - len(text)))
    exceeds = _post(client, text + " " * (16 * 1024 - len(text) + 1))

    assert (fits.status_code, exceeds.status_code) == (201, 413)
    assert exceeds.json["code"] == "body-too-large"


def test_pages_are_linked(client: TestClient, clock: SettableClock) -> None:
    """Each refund is listed once, newest first."""
    made = []
    for n in range(5):
        clock.advance(0.001)
        body = BODY | {"reference": f"part-{n}", "payment_session_id": "a&b=c"}
        made.append(_post(client, body))
    path, seen = "/v1/refunds?payment_session_id=a%26b%3Dc&status=queued&limit=2", []
    while path:
        page = get(client, path)
        seen += page.json["refunds"]
        link = page.headers.get("link", "<>; rel=next")
        assert ("link" in page.headers) == (page.json["next_cursor"] is not None)
        path = link.removeprefix("<").removesuffix(">; rel=next")

    assert seen == [refund.json for refund in reversed(made)]


def test_filters_lists(client: TestClient, clock: SettableClock) -> None:
    for session in ("ps_1", "ps_2"):
        clock.advance(0.001)
        _post(client, BODY | {"payment_session_id": session})

    def listed(query: str) -> list[str]:
        page = get(client, f"/v1/refunds?{query}").json
        return [refund["payment_session_id"] for refund in page["refunds"]]

    assert listed("payment_session_id=ps_2") == ["ps_2"]
    assert listed("status=queued") == ["ps_2", "ps_1"]
    assert listed("status=confirmed") == []
    assert listed("payment_session_id=ps_3&status=queued") == []


def test_an_unknown_parameter_is_answered_with_the_known_ones(
    client: TestClient,
) -> None:
    problem = get(client, "/v1/refunds?state=queued").json

    assert problem["field"] == "state"
    assert problem["detail"] == (
        "unknown query parameter; this path takes payment_session_id, status, network,"
        " created_from, created_before, min_amount, max_amount, limit, cursor"
    )


def test_the_name_of_an_unknown_parameter_is_shown_only_if_it_is_plain(
    client: TestClient,
) -> None:
    """It is the caller's text, as the name of an unknown member is."""
    problem = get(client, "/v1/refunds?%3Cscript%3E=queued").json

    assert problem["code"] == "invalid-input"
    assert "field" not in problem


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e1", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=paid", "status"),
        ("status=QUEUED", "status"),
        ("cursor=%00", "cursor"),
        ("cursor=garbage", "cursor"),
        ("cursor=rf_" + "0" * 31, "cursor"),
        ("cursor=rf_" + "G" * 32, "cursor"),
        ("cursor=" + "c" * 513, "cursor"),
        ("payment_session_id=%FF", "payment_session_id"),
        (f"payment_session_id={'p' * 129}", "payment_session_id"),
        ("payment_session_id=a%20b", "payment_session_id"),
        ("client=gateway-2", "client"),
        ("Limit=1", "Limit"),
    ],
)
def test_malformed_queries_are_refused(
    client: TestClient, query: str, field: str
) -> None:
    response = get(client, f"/v1/refunds?{query}")

    assert response.status_code == 400
    assert response.json.get("field") == field


@pytest.mark.parametrize(
    "path",
    [
        "/v1/refunds/rf_0",
        "/v1/refunds/%00",
        "/v1/refunds/..%2F..",
        "/v1/refunds/" + "r" * 65,
        "/v1/refunds/rf_" + "0" * 32,
    ],
)
def test_an_unknown_refund_is_not_found(client: TestClient, path: str) -> None:
    answers = [
        get(client, path),
        get(client, f"{path}/explain"),
        client.simulate_post(f"{path}/cancel", headers=bearer()),
    ]

    assert [(each.status_code, each.json["code"]) for each in answers] == [
        (404, "not-found")
    ] * 3


def test_a_broken_store_is_503(
    client: TestClient, sqlite_store: SQLStore, tmp_path: Path
) -> None:
    sqlite_store.close()
    (tmp_path / "hotwallet.db").write_bytes(b"no database " * 1000)
    response = _post(client)

    assert (response.status_code, response.json["code"]) == (503, "store-unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert "hotwallet.db" not in response.text
