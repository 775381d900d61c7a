"""The routes of refunds: request, cancel, search and explain."""

import csv
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from falcon import Response
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.exports import Exports
from backends.sql import SQLStore
from signer.errors import ChainUnavailableError, RateLimitedError, StoreUnavailableError
from signer.model.refund import Refund, Status, new_refund_id
from signer.ports.refund_reports import RefundFilter
from signer.refunds.service import WORKER_SECONDS
from tests.api.service import BODY, RECIPIENT, TOKEN_ADDRESS, Pace
from tests.api.support import NOW, SettableClock, bearer, get, post
from tests.fixtures.ledger import accepted, save, step_to, stopped
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.refunds import altered


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


# A refund can be cancelled while it is queued.


def _cancel(client: TestClient, path: str, query: str = "", **claims: Any) -> Result:
    return client.simulate_post(f"{path}/cancel{query}", headers=bearer(**claims))


@pytest.fixture
def queued(paying: TestClient, sqlite_store: SQLStore) -> str:
    stopped(sqlite_store, at=NOW)
    return str(post(paying, BODY).headers["location"])


def test_a_queued_refund_is_cancelled(
    paying: TestClient, queued: str, clock: SettableClock
) -> None:
    """Cancelling it twice gives the same answer."""
    clock.advance(2)
    answer = _cancel(paying, queued)
    clock.advance(60)
    again = _cancel(paying, queued)

    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    assert answer.json["updated_at"] == "2026-11-24T12:00:02.000000Z"
    assert answer.json["failure"] is None
    assert answer.json == get(paying, queued).json
    assert (again.status_code, again.json) == (200, answer.json)


def test_a_refund_with_a_nonce_is_not_cancellable(
    paying: TestClient, node: ScriptedChain
) -> None:
    """R26: 409, and the detail has its status."""
    path = post(paying, BODY).headers["location"]
    answer = _cancel(paying, path)

    assert (answer.status_code, answer.json["code"]) == (409, "not-cancellable")
    assert "broadcast" in answer.json["detail"]
    assert get(paying, path).json["status"] == "broadcast"
    assert len(node.pool) == 1


def test_cancelling_needs_the_chain(
    paying: TestClient,
    queued: str,
    node: ScriptedChain,
    clock: SettableClock,
    pace: Pace,
) -> None:
    """R24: only the chain shows whether the ledger lacks a payment; until then 202."""
    errors = [ChainUnavailableError("no node answers")] * 99
    node.fail("pending_count", *errors)
    clock.advance(2)
    pace.slept = 0
    answer = _cancel(paying, queued)
    again = _cancel(paying, queued)

    assert [each.status_code for each in (answer, again)] == [202, 202]
    assert answer.json["status"] == "queued"
    assert answer.json["cancel_requested_at"] == "2026-11-24T12:00:02.000000Z"
    assert answer.json == again.json == get(paying, queued).json
    assert WORKER_SECONDS * 2 <= pace.slept < WORKER_SECONDS * 2 + 1
    assert len(errors) > len(node._errors["pending_count"]) > 0


def test_a_cancelled_refund_is_never_paid(
    paying: TestClient, node: ScriptedChain, sqlite_store: SQLStore
) -> None:
    """R26: its key and its reference stay used."""
    node.revert, node.balance_left = "empty", 0  # The refund waits for a top-up.
    first = post(paying, BODY, Idempotency_Key="k")
    _cancel(paying, first.headers["location"])
    node.revert, node.balance_left = None, 10**12
    replayed = post(paying, BODY, Idempotency_Key="k")
    under_another_key = post(paying, BODY)

    assert first.json["status"] == "queued"
    assert (replayed.json["id"], replayed.json["status"]) == (
        first.json["id"],
        "cancelled",
    )
    assert under_another_key.json["code"] == "conflict"
    assert sqlite_store.claim(NOW + timedelta(hours=1), NOW, 9) == ()
    assert node.broadcasts == []


# Refunds are filtered by time, amount and network, and sent as a file.

TENANT = "gateway-1"

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _accepted(store: SQLStore, hours: int = 0, **changes: Any) -> Refund:
    at = NOON + timedelta(hours=hours)
    named = {"tenant": TENANT, "id": new_refund_id(at), "created_at": at, **changes}
    return accepted(store, **named)


@pytest.fixture
def refunds(sqlite_store: SQLStore) -> list[Refund]:
    """Three refunds of the tenant, each an hour after the last, and a stranger's."""
    _accepted(sqlite_store, tenant="stranger")
    return [
        _accepted(sqlite_store, 0, amount=1_000_000),
        _accepted(sqlite_store, 1, amount=2_000_000, network="other"),
        _accepted(sqlite_store, 2, amount=3_000_000, reason="=cmd()"),
    ]


CASES = {
    "": [0, 1, 2],
    "created_from=2026-01-31T13:00:00Z": [1, 2],
    "created_from=2026-01-31T13:00:00.000001Z": [2],
    "created_before=2026-01-31T13:00:00Z": [0],
    "created_before=2026-01-31T15:00:00%2B02:00": [0],
    "created_from=2026-01-31&created_before=2026-02-01": [0, 1, 2],
    "created_from=2026-02-01": [],
    "min_amount=2": [1, 2],
    "max_amount=2.0": [0, 1],
    "min_amount=1.5&max_amount=2.5&network=other": [1],
    "network=local": [0, 2],
    "network=unknown": [],
}


@pytest.mark.parametrize("query", CASES)
def test_filters_restrict_what_is_listed_and_exported(
    client: TestClient, refunds: list[Refund], query: str
) -> None:
    """Only refunds of the caller's tenant, newest first."""
    expected = [refunds[n].id for n in reversed(CASES[query])]
    listed = client.simulate_get(f"/v1/refunds?{query}", headers=bearer())
    exported = client.simulate_get(
        f"/v1/refunds/export?format=jsonl&{query}", headers=bearer()
    )

    assert [each["id"] for each in listed.json["refunds"]] == expected
    lines = exported.text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("created_from=yesterday", "created_from"),
        ("created_from=0001-01-01", "created_from"),
        ("created_before=9999-12-31", "created_before"),
        ("created_from=2026-02-01&created_before=2026-02-01", "created_before"),
        ("min_amount=-1", "min_amount"),
        ("min_amount=1e3", "min_amount"),
        ("max_amount=1_000", "max_amount"),
        ("min_amount=2&max_amount=1.99", "max_amount"),
        ("network=a%20b", "network"),
    ],
)
def test_a_malformed_filter_is_named(
    client: TestClient, query: str, field: str
) -> None:
    for path in ("/v1/refunds", "/v1/refunds/export"):
        refused = client.simulate_get(f"{path}?{query}", headers=bearer())
        assert (refused.status_code, refused.json["field"]) == (400, field)


def test_pages_keep_the_filters(client: TestClient, refunds: list[Refund]) -> None:
    path, seen = "/v1/refunds?min_amount=1&created_from=2026-01-31&limit=1", []
    while path:
        page = client.simulate_get(path, headers=bearer())
        seen += [each["id"] for each in page.json["refunds"]]
        link = page.headers.get("link", "")
        path = link[1:].partition(">")[0]

    assert seen == [each.id for each in reversed(refunds)]


def test_a_file_has_every_refund_and_no_formula(
    client: TestClient, sqlite_store: SQLStore, refunds: list[Refund]
) -> None:
    """Also where there are several pages."""
    for number in range(401):
        _accepted(sqlite_store, -1, reference=f"more {number}")
    sent = client.simulate_get("/v1/refunds/export", headers=bearer())
    rows = list(csv.DictReader(sent.text.splitlines()))

    assert sent.headers["content-type"] == "text/csv; charset=utf-8"
    assert "refunds.csv" in sent.headers["content-disposition"]
    assert len({row["id"] for row in rows}) == len(rows) == 404
    assert rows[0]["id"] == refunds[2].id
    assert rows[0]["reason"] == "'=cmd()"
    assert (rows[0]["amount"], rows[0]["failure_code"]) == ("3.000000", "")
    assert {row["tenant"] for row in rows} == {TENANT}


def test_an_export_needs_the_scope_of_reading(client: TestClient) -> None:
    given = bearer(scope="refunds:write")
    refused = client.simulate_get("/v1/refunds/export", headers=given)
    unknown = client.simulate_get("/v1/refunds/export?format=xml", headers=bearer())

    assert refused.status_code == 403
    assert (unknown.status_code, unknown.json["field"]) == (400, "format")


def test_a_caller_receives_one_file_at_a_time(container: Container) -> None:
    """The place is free again once the server is done, also if nothing was read."""
    exports, resp = Exports(container.store), Response()
    exports.send(resp, RefundFilter(), "csv", caller="a")
    with pytest.raises(RateLimitedError):
        exports.send(Response(), RefundFilter(), "csv", caller="a")
    exports.send(Response(), RefundFilter(), "csv", caller="b")
    stream: Any = resp.stream
    stream.close()
    stream.close()

    exports.send(Response(), RefundFilter(), "csv", caller="a")


def test_a_database_that_fails_is_an_error_and_no_empty_file(
    sqlite_store: SQLStore,
) -> None:
    failing = altered(sqlite_store, search_refunds=StoreUnavailableError("no answer"))

    exports = Exports(failing)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            exports.send(Response(), RefundFilter(), "csv", caller="a")


# The explanation of a refund's status.

MEMBERS = {
    "refund", "summary", "next", "blocked_by", "attempts", "policy", "history",
    "transactions", "nonce", "wallet", "nodes", "confirmations", "fees", "unanswered",
    "stopped_at", "tenant_blocked_at",
}  # fmt: skip


@pytest.fixture
def sent(paying: TestClient) -> str:
    """The path of a refund that is in a node's pool."""
    return str(post(paying, BODY).headers["location"])


def test_an_explanation_has_all_members(paying: TestClient, sent: str) -> None:
    refund = get(paying, sent).json
    answer = get(paying, f"{sent}/explain")
    found = answer.json

    assert answer.status_code == 200
    assert found.keys() == MEMBERS
    assert found["refund"] == refund
    assert found["summary"] == "1 of 1 nodes have it, and it waits to be mined."
    assert found["next"]["what"].startswith("A worker broadcasts the same")
    assert found["next"]["at"] == "2026-11-24T12:00:30.000000Z"
    assert found["policy"] == {"allowed": True, "objection": None}
    assert (found["blocked_by"], found["attempts"]) == (None, 0)
    assert [move["status"] for move in found["history"]] == [
        "queued",
        "reserved",
        "signed",
        "broadcast",
    ]
    assert found["nonce"] == {"nonce": 0, "waits_for": []}
    assert found["unanswered"] == {}


def test_transactions_have_hash_and_fees(paying: TestClient, sent: str) -> None:
    """Fees are decimal strings; the signed bytes are left out."""
    refund = get(paying, sent).json
    found = get(paying, f"{sent}/explain").json
    (transaction,) = found["transactions"]

    assert transaction == {
        "tx_hash": refund["tx_hash"],
        "attempt": 0,
        "kind": "transfer",
        "max_fee_per_gas": transaction["max_fee_per_gas"],
        "max_priority_fee_per_gas": "100000000",
        "gas_limit": transaction["gas_limit"],
        "signed_at": "2026-11-24T12:00:00.000000Z",
    }
    assert re.fullmatch("[0-9]{10}", transaction["max_fee_per_gas"])
    assert found["fees"]["max_fee_per_gas"] == transaction["max_fee_per_gas"]
    assert found["fees"]["base_fee_per_gas"] == "1000000000"
    required = int(found["fees"]["replacement_max_fee_per_gas"])
    assert required * 8 >= int(transaction["max_fee_per_gas"]) * 9


def test_nodes_and_wallet(paying: TestClient, sent: str, node: ScriptedChain) -> None:
    refund = get(paying, sent).json
    found = get(paying, f"{sent}/explain").json

    assert found["nodes"] == [
        {
            "node": "node-1",
            "trusted": True,
            "error": None,
            "head": 0,
            "next_nonce": 0,
            "pending_nonce": 1,
            "transactions": {refund["tx_hash"]: "pending"},
        }
    ]
    assert found["wallet"] == {
        "chain_id": 31337,
        "address": refund["sender"],
        "next_nonce": 1,
        "chain_next_nonce": 1,
        "unseen": 0,
        "paused_by": None,
        "paused_at": None,
        "foreign": [],
    }


def test_names_what_the_nodes_did_not_answer(
    paying: TestClient, sent: str, node: ScriptedChain
) -> None:
    """The rest comes from the ledger."""
    down = ChainUnavailableError("no node answers")
    for method in ("pending_count", "latest_block", "fees", "views"):
        node.fail(method, down)
    answer = get(paying, f"{sent}/explain")
    found = answer.json

    assert answer.status_code == 200
    assert found["unanswered"] == {
        "wallet": "chain-unavailable",
        "head": "chain-unavailable",
        "fees": "chain-unavailable",
    }
    assert [each["error"] for each in found["nodes"]] == ["chain-unavailable"]
    assert found["wallet"] is None
    assert found["fees"] is None
    assert len(found["transactions"]) == 1
    assert len(found["history"]) == 4


def test_names_refunds_with_earlier_nonces(
    paying: TestClient, sent: str, node: ScriptedChain
) -> None:
    first = get(paying, sent).json
    second = post(paying, BODY | {"reference": "second"}).headers["location"]
    found = get(paying, f"{second}/explain").json

    assert found["nonce"] == {
        "nonce": 1,
        "waits_for": [{"nonce": 0, "refund": first["id"], "status": "broadcast"}],
    }
    assert first["id"] in found["summary"]
