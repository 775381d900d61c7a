"""Refunds are filtered by time, amount and network, and sent as a file."""

import csv
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from falcon import Response
from falcon.testing import TestClient

from api.container import Container
from api.http.exports import Exports
from backends.sql import SQLStore
from signer.errors import RateLimitedError, StoreUnavailableError
from signer.model.refund import Refund, new_refund_id
from signer.ports.refund_reports import RefundFilter
from tests.api.support import bearer
from tests.fixtures.ledger import accepted
from tests.support.refunds import altered


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
