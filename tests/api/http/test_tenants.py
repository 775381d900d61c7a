"""The routes that block a tenant, and the tenant in the log."""

import io
import secrets
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.model.hold import Hold
from tests.api.service import BODY
from tests.api.support import NOW, bearer, get, lines, post


def _change(
    client: TestClient, action: str, tenant: str = "gateway-1", **claims: Any
) -> Result:
    given = {"roles": ["devops"], "scope": "tenants:block", "sub": "alice"}
    headers = bearer(**{**given, "jti": secrets.token_hex(8), **claims})
    return client.simulate_post(f"/v1/admin/tenants/{tenant}/{action}", headers=headers)


@pytest.mark.parametrize("role", ["admin", "devops"])
def test_block_and_unblock(
    client: TestClient, sqlite_store: SQLStore, role: str
) -> None:
    """Both are safe to repeat; the block has its time and the administrator."""
    actions = ["block", "block", "unblock", "unblock"]
    answers = [_change(client, action, roles=[role]).json for action in actions[:2]]
    stored = sqlite_store.blocks()
    answers += [_change(client, action, roles=[role]).json for action in actions[2:]]

    assert {each["tenant"] for each in answers} == {"gateway-1"}
    assert [each["status"] for each in answers] == [
        "blocked",
        "already-blocked",
        "unblocked",
        "not-blocked",
    ]
    assert stored == (Hold.of_tenant("gateway-1", NOW, "", "token:alice"),)
    assert sqlite_store.blocks() == ()


@pytest.mark.parametrize("name", ["hotwallet%20sweep", "a" * 129, "%C3%A9"])
def test_names_that_no_tenant_has(
    client: TestClient, sqlite_store: SQLStore, name: str
) -> None:
    answer = _change(client, "block", name)

    assert (answer.status_code, answer.json["code"]) == (404, "not-found")
    assert sqlite_store.blocks() == ()


def test_a_repeated_request_is_refused_while_blocked(client: TestClient) -> None:
    """Its answer is the same as before after the block."""
    first = post(client, BODY, Idempotency_Key="key")
    _change(client, "block")
    refused = post(client, BODY, Idempotency_Key="key")
    _change(client, "unblock")
    again = post(client, BODY, Idempotency_Key="key")

    assert (refused.status_code, refused.json["code"]) == (403, "tenant-blocked")
    assert "www-authenticate" not in refused.headers
    assert (again.status_code, again.content) == (200, first.content)


def test_an_administrator_needs_no_tenant(
    container: Container, sqlite_store: SQLStore, log: io.StringIO
) -> None:
    """The log has the tenant of requests for refunds only."""
    client = TestClient(create_app(container))
    _change(client, "block")
    get(client, "/v1/refunds", sub="gateway-2")
    requests = [line for line in lines(log) if line["event"] == "request"]

    assert [each.get("tenant") for each in requests] == [None, "gateway-2"]
    assert [each["client"] for each in requests] == ["alice", "gateway-2"]
