"""
The OpenAPI document describes the routes as they are.

Beside these tests, every answer of the tests in this folder is compared with it
(``tests/api/described_answers.py``).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from falcon.inspect import inspect_routes
from falcon.testing import TestClient

import signer
from api.container import Container
from api.extras.console import is_console
from api.http.app import App, create_app
from api.http.middleware import Resource
from api.http.openapi.document import complete_document
from api.http.problems import code_statuses
from api.views.codes import failure_codes, problem_codes
from signer.config.settings import Role
from signer.config.tenants import EventType
from signer.model.event import new_event_id
from signer.model.refund import Status
from signer.ports.clock import utc_now
from signer.webhooks.signatures import PrivateKey, Secret, SigningKey, sign
from tests.api.described_answers import validate


Json = dict[str, Any]


def _app(container: Container, role: Role) -> App:
    container.settings = container.settings.model_copy(update={"serve_role": role})
    return create_app(container)


def _document(app: App) -> Json:
    document: Json = TestClient(app).simulate_get("/openapi.json").json
    return document


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Json]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def test_the_document_is_valid(container: Container) -> None:
    """It is OpenAPI 3.1."""
    # It imports for a second, which each worker of the tests would take.
    from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: PLC0415

    document = _document(_app(container, Role.ALL))

    assert document["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


@pytest.mark.parametrize("role", Role)
def test_every_reference_has_a_target(container: Container, role: Role) -> None:
    """Though each process has only the schemas that it uses."""
    document = _document(_app(container, role))
    references = re.findall(r'"#/(.*?)/(.*?)/(.*?)"', json.dumps(document))

    assert len(references) > 20
    for section, kind, name in references:
        assert name in document[section][kind]


@pytest.mark.parametrize("role", Role)
def test_each_process_describes_its_routes(container: Container, role: Role) -> None:
    """
    H21: each route and method that it serves, and no other one.

    The console is not for programs: its pages and forms may change at any time.
    """
    app = _app(container, role)
    served = {
        (route.path, method.method.lower())
        for route in inspect_routes(app)
        for method in route.methods
        if not (method.internal or is_console(route.path))
    }
    described = {(path, method) for path, method, _ in _operations(_document(app))}

    assert described == served
    assert (("/v1/refunds", "post") in served) is (role in {Role.ALL, Role.REFUNDS})


def test_a_process_describes_only_what_it_uses(container: Container) -> None:
    """Schemas, webhooks and tags."""
    described = _document(_app(container, Role.REFUNDS))
    schemas = described["components"]["schemas"].keys()
    of_administrators = _document(_app(container, Role.ADMIN))

    assert {"Refund", "Problem", "Preview"} <= schemas
    assert not {"Rotation", "KeyList", "Approval"} & schemas
    assert {*described["webhooks"]} == {"refundEvent"}
    assert "Webhooks" in {each["name"] for each in described["tags"]}
    assert of_administrators["webhooks"] == {}
    assert not {"Webhooks", "Refunds"} & {
        each["name"] for each in of_administrators["tags"]
    }


def test_roles_and_scopes_are_those_of_the_routes(container: Container) -> None:
    app = _app(container, Role.ALL)
    found: dict[tuple[str, str], tuple[set[str], list[str]]] = {}
    expected: dict[tuple[str, str], tuple[set[str], list[str]]] = {}
    for path, method, operation in _operations(_document(app)):
        route = app._router.find(re.sub(r"\{.*?\}", "x", path))
        assert route is not None
        resource = route[0]
        assert isinstance(resource, Resource)
        permission = resource.permission(method.upper())
        (scheme,) = operation["security"]
        scopes = scheme.get("bearerToken", [])
        found[path, method] = set(operation.get("x-roles", ())), scopes
        scope = permission and permission.scope
        roles = set(permission.roles) if permission else set()
        expected[path, method] = roles, [scope] if scope else []

    assert found == expected


def test_operations_have_names_of_their_own() -> None:
    """Generated clients have one function for each."""
    names = [each["operationId"] for _, _, each in _operations(complete_document())]

    assert len(set(names)) == len(names) > 20
    assert all(re.fullmatch("[a-z][A-Za-z]+", name) for name in names)


def test_every_code_is_described() -> None:
    """The schema of problems has each code, and each code has a page."""
    schemas = complete_document()["components"]["schemas"]
    used = {
        code
        for _, _, each in _operations(complete_document())
        for code in each["x-problems"]
    }

    assert set(schemas["Problem"]["properties"]["code"]["enum"]) == {*code_statuses()}
    assert code_statuses().keys() <= problem_codes().keys()
    assert used <= code_statuses().keys()


def test_examples_are_valid() -> None:
    """Each example is what its schema describes."""
    document = complete_document()
    webhook = document["webhooks"]["refundEvent"]["post"]
    found = [
        (media["schema"], example)
        for operation in [webhook, *(each for _, _, each in _operations(document))]
        for part in (operation.get("requestBody", {}), *operation["responses"].values())
        for media in part.get("content", {}).values()
        for example in [
            *([media["example"]] if "example" in media else []),
            *(each["value"] for each in media.get("examples", {}).values()),
        ]
    ]
    for schema, example in found:
        validate(example, schema)

    assert len(found) > 15


def test_the_described_webhook_is_what_is_sent() -> None:
    """Its headers and patterns; a message that both schemes sign."""
    operation = complete_document()["webhooks"]["refundEvent"]["post"]
    keys: list[SigningKey] = [PrivateKey.generate(), Secret.generate()]
    sent = sign(keys, new_event_id(utc_now()), utc_now(), b"{}")
    described = {each["name"]: each["schema"] for each in operation["parameters"]}

    assert sent.keys() == described.keys()
    for name, schema in described.items():
        assert re.search(schema["pattern"], sent[name])


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("Status", [*Status]),
        ("`failure.code`", failure_codes()),
        ("Type", [*EventType]),
    ],
)
def test_the_guide_has_every_value(heading: str, values: Sequence[str]) -> None:
    """Its tables have each status, reason and type of an event, and no other one."""
    (refunds,) = (
        each["description"]
        for each in complete_document()["tags"]
        if each["name"] == "Refunds"
    )
    (table,) = re.findall(rf"^\| {heading} \|.*\n((?:\|.*\n)+)", refunds, re.MULTILINE)

    assert re.findall(r"^\| \[?`([a-z._-]+)`", table, re.MULTILINE) == [*values]


def test_every_reason_of_a_failure_is_described() -> None:
    """Each that the code gives, except for those of operators' sweeps."""
    folder = Path(signer.__file__).parent / "refunds"
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    written = re.findall(
        r'(?:build_objection\(\s*|failure_code=|State\.[A-Z]+: \()"([a-z-]+)"', text
    )

    assert {"reverted", "nonce-taken", "approval-expired"} <= {*written}
    own = {code for code in written if not code.startswith("sweep-")}
    assert own | {"execution-reverted", "token-stopped"} == {*failure_codes()}


def test_the_document_needs_no_token(container: Container) -> None:
    """It has no query parameters, and nothing of this installation."""
    client = TestClient(_app(container, Role.REFUNDS))
    answer = client.simulate_get("/openapi.json")

    assert answer.headers["content-type"] == "application/json"
    assert client.simulate_get("/openapi.json?a=b").status_code == 400
    assert json.loads(answer.text)["servers"] == [{"url": "/"}]
