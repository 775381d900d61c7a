"""
No field is read and dropped: each one is refused, or changes what happens.

The OpenAPI document says what each operation takes.  For everything in it, this shows
that a wrong value is refused under the field's name; and that what is not in it is
refused too.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, StartResponseMock, TestClient, create_environ

from api.container import Container
from api.http.app import create_app
from api.http.openapi.document import complete_document
from tests.api.administrators import authorized
from tests.api.scopes import SCOPES
from tests.api.service import RECIPIENT, build_container
from tests.api.support import SettableClock
from tests.support.ledgers import copy_ledger, open_ledger, seal


Json = dict[str, Any]

DOCUMENT: Json = dict(complete_document())

ROLES = ["merchant", "admin", "devops", "signer"]

PATHS = {
    "refund_id": "rf_" + "0" * 32,
    "network": "local",
    "address": RECIPIENT,
    "tenant": "gateway-1",
    "digest": "sha256:" + "0" * 64,
    "event_id": "evt_" + "0" * 32,
    "code": "forbidden",
}

UNKNOWN = "not_in_the_document"

# Probes are asked by programs that add parameters of their own, and answered before
# the query is read.
PROBES = {"/healthz", "/readyz"}

# Members of these have any names: they are a document of the caller.
OPEN = {"types", "domain", "message", "params"}


def _operations() -> Iterator[tuple[str, str, Json]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


OPERATIONS = {
    f"{method} {path}": (method, path, it) for method, path, it in _operations()
}


def _send(
    client: TestClient,
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | None = None,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Result:
    concrete = re.sub(r"\{(\w+)\}", lambda match: PATHS[match[1]], path)
    given = authorized(roles=ROLES, scope=" ".join(SCOPES), sub="gateway-1")
    if path == "/v1/refunds" and method == "POST":
        given["Idempotency-Key"] = "k"
    if body is not None:
        given["Content-Type"] = "application/json"
    return client.simulate_request(
        method,
        concrete,
        params=dict(query or {}),
        params_csv=False,
        body=None if body is None else json.dumps(body),
        headers={**given, **(headers or {})},
    )


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[TestClient]:
    """A client of one application: what is refused changes nothing."""
    path = copy_ledger(_sqlite_template, tmp_path_factory.mktemp("fields") / "all.db")
    with closing(open_ledger(f"sqlite:///{path}")) as store:
        yield TestClient(
            create_app(build_container(store, SettableClock(), changes=10_000))
        )


def _example(operation: Json) -> Any:
    media = operation["requestBody"]["content"]["application/json"]
    if "example" in media:
        return media["example"]
    return next(iter(media["examples"].values()))["value"]


def _is_refused(answer: Result) -> bool:
    """Also a member of a batch, and a call of JSON-RPC, each in an answer 200."""
    if answer.status_code == 200:
        results = answer.json.get("results", ())
        return "error" in answer.json or any(each["status"] == 400 for each in results)
    return answer.status_code == 400 and answer.json["code"] == "invalid-input"


def _properties(schema: Json) -> Json:
    """Return the members that *schema* describes, also in its alternatives."""
    if "$ref" in schema:
        return _properties(
            DOCUMENT["components"]["schemas"][schema["$ref"].split("/")[-1]]
        )
    found = dict(schema.get("properties", {}))
    for each in [
        *schema.get("oneOf", ()),
        *schema.get("anyOf", ()),
        *schema.get("allOf", ()),
    ]:
        found |= _properties(each)
    return found


def _variants(value: Any, schema: Json) -> Iterator[tuple[str, Any]]:
    """Yield *value* with one thing wrong, and what it is, at every depth."""
    if isinstance(value, list):
        for number, each in enumerate(value[:1]):
            for where, wrong in _variants(each, _items(schema)):
                yield f"{number}.{where}", [wrong, *value[1:]]
    if not isinstance(value, dict):
        return
    yield UNKNOWN, {**value, UNKNOWN: 1}
    for name, part in _properties(schema).items():
        wrong_type: Any = 7 if isinstance(value.get(name), list | dict) else [[]]
        yield name, {**value, name: wrong_type}
        if name in value and name not in OPEN:
            for where, wrong in _variants(value[name], part):
                yield f"{name}.{where}", {**value, name: wrong}


def _items(schema: Json) -> Json:
    if "$ref" in schema:
        return _items(DOCUMENT["components"]["schemas"][schema["$ref"].split("/")[-1]])
    items: Json = schema.get("items", {})
    return items


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_unknown_parameter_is_refused(client: TestClient, name: str) -> None:
    method, path, operation = OPERATIONS[name]
    body = _example(operation) if "requestBody" in operation else None
    answer = _send(client, method, path, query={UNKNOWN: "1"}, body=body)

    if path in PROBES:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json["field"]) == (400, UNKNOWN)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        (name, each["name"])
        for name, (_, _, operation) in OPERATIONS.items()
        for each in operation.get("parameters", ())
        if each["in"] == "query"
    ],
)
def test_a_parameter_that_is_malformed_or_repeated_is_refused(
    client: TestClient, name: str, parameter: str
) -> None:
    method, path, _ = OPERATIONS[name]
    for query in ({parameter: "\x01"}, {parameter: ["1", "1"]}, {parameter: ""}):
        answer = _send(client, method, path, query=query)

        assert (answer.status_code, answer.json["field"]) == (400, parameter)


@pytest.mark.parametrize(
    "name", [name for name, each in OPERATIONS.items() if "requestBody" in each[2]]
)
def test_a_wrong_or_unknown_member_is_refused(client: TestClient, name: str) -> None:
    """Of the body, and of every object in it."""
    method, path, operation = OPERATIONS[name]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    variants = dict(_variants(_example(operation), schema))
    accepted = [
        where
        for where, body in variants.items()
        if not _is_refused(_send(client, method, path, body=body))
    ]

    assert UNKNOWN in {where.rpartition(".")[2] for where in variants}
    assert accepted == []


@pytest.mark.parametrize(
    "name", [name for name, each in OPERATIONS.items() if "requestBody" not in each[2]]
)
def test_a_body_that_nothing_reads_is_refused(client: TestClient, name: str) -> None:
    """A reason in it, for example, would be lost."""
    method, path, _ = OPERATIONS[name]
    answer = _send(client, method, path, body={"reason": "to be kept"})

    if path in {*PROBES, "/metrics"}:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json["field"]) == (400, "body")


def test_an_empty_object_is_no_body(client: TestClient) -> None:
    """HTTP libraries send one where nothing was given."""
    path = "/v1/refunds/{refund_id}/cancel"

    assert _send(client, "POST", path, body={}).json["code"] == "not-found"
    assert _send(client, "GET", "/v1/refunds", body={}).status_code == 200


# A valid value that differs from the example's, for each field of a refund.
OTHER = dict.fromkeys(_properties({"$ref": "/RefundRequest"}), "another") | {
    "payment_session_id": "ps_other",
    "network": "unknown",
    "token": "UNKNOWN",
    "recipient": "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
    "amount": "1.000001",
}


@pytest.mark.parametrize("field", OTHER)
def test_every_field_of_a_refund_changes_it(container: Container, field: str) -> None:
    """Or it is refused because of its value."""
    client = TestClient(create_app(container))
    example = _example(OPERATIONS["POST /v1/refunds"][2])
    answer = _send(client, "POST", "/v1/refunds", body=example | {field: OTHER[field]})

    if field in {"network", "token"}:
        assert answer.json["code"] == "policy-violation"
    else:
        assert answer.json[field].rstrip("0") == OTHER[field].rstrip("0")
        assert OTHER[field] != example.get(field)


def test_a_reason_in_chunks_is_kept(container: Container) -> None:
    """A body without a length was not read."""
    app, token = create_app(container), authorized(roles=ROLES, scope=" ".join(SCOPES))
    environ = create_environ(
        path="/v1/admin/tenants/gateway-1/block",
        method="POST",
        headers={**token, "Content-Type": "application/json"},
        body=json.dumps({"reason": "a fraud"}),
    )
    del environ["CONTENT_LENGTH"]
    environ["wsgi.input_terminated"] = True
    started = StartResponseMock()
    body = b"".join(app(environ, started))
    seal(container.store)
    reasons = [
        each.record.fields["details"].get("reason")
        for each in container.store.sealed(0, 10)
        if each.record.fields.get("details", {}).get("tenant") == "gateway-1"
    ]

    assert started.status == "200 OK", body
    assert "a fraud" in reasons
