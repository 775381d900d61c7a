"""The OpenAPI document and its pages describe the routes as they are."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from falcon.inspect import inspect_routes
from falcon.testing import Result, TestClient

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
from tests.api.service import build_container
from tests.api.support import SettableClock, get
from tests.support.ledgers import copy_ledger, open_ledger


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


# ``/docs`` and ``/problems``: pages that run nothing and load nothing.


class _Page(HTMLParser):
    """The tags, links, anchors and text of a page; checks that tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.attributes: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.anchors += [value or "" for name, value in attrs if name == "id"]
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def _policy(answer: Result) -> dict[str, str]:
    header = answer.headers["content-security-policy"]
    rules = [rule.strip().partition(" ") for rule in header.split(";")]
    return {name: value for name, _, value in rules}


def _require_strict(answer: Result) -> _Page:
    """Require that the page has no script, no other file, and the right policy."""
    page, policy = _Page(answer.text), _policy(answer)
    (style,) = re.findall("<style>(.*)</style>", answer.text, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert not {"script", "link", "img", "iframe", "form"} & {*page.tags}
    assert page.attributes <= {
        "lang", "charset", "name", "content", "id", "class", "href", "aria-label",
        "tabindex",
    }  # fmt: skip
    return page


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> Iterator[TestClient]:
    """A client of one application: pages change nothing."""
    path = copy_ledger(_sqlite_template, tmp_path_factory.mktemp("pages") / "pages.db")
    with closing(open_ledger(f"sqlite:///{path}")) as store:
        yield TestClient(create_app(build_container(store, SettableClock())))


@pytest.fixture(scope="module")
def page(client: TestClient) -> _Page:
    """The page of the API, which takes a second to make."""
    return _require_strict(client.simulate_get("/docs"))


def test_the_page_has_every_operation_and_schema(page: _Page) -> None:
    document = complete_document()
    operations = [
        operation
        for operations in document["paths"].values()
        for operation in operations.values()
    ]

    assert {each["operationId"] for each in operations} <= {*page.anchors}
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= {
        *page.anchors
    }
    for each in operations:
        assert each["summary"] in page.words


def test_the_page_shows_what_limits_values_and_the_headers(page: _Page) -> None:
    """What the document says about parameters and answers; not only its prose."""
    headers = complete_document()["components"]["headers"]

    assert {f"header-{name}" for name in headers} <= {*page.anchors}
    assert {f"#header-{name}" for name in {*headers} - {"X-Request-Id"}} <= {
        *page.links
    }
    for words in (
        "at most 200",
        "default 50",
        "pattern ^[0-9]{1,16}$",
        "awaiting-appr",
    ):
        assert words in page.words


def test_the_page_has_the_guide(page: _Page) -> None:
    """With its tables, lists and code; no Markdown is left."""
    assert {"guide-getting-started", "guide-verify-a-webhook"} <= {*page.anchors}
    assert {"ol", "strong", "table", "pre"} <= {*page.tags}
    for rest in ("###", "| ---", "```", "**", "]("):
        assert rest not in page.words


def test_every_link_of_the_page_has_a_target(page: _Page, client: TestClient) -> None:
    here = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    other = {link for link in page.links if not link.startswith("#")}

    assert len({*page.anchors}) == len(page.anchors)
    assert here <= {*page.anchors}
    for link in other:
        assert client.simulate_get(link).status_code == 200


@pytest.mark.parametrize("code", problem_codes())
def test_each_code_has_a_page(client: TestClient, code: str) -> None:
    """It says what the command line says."""
    entry = problem_codes()[code]
    page = _require_strict(client.simulate_get(f"/problems/{code}"))
    text = client.simulate_get(f"/problems/{code}", headers={"Accept": "text/plain"})

    assert code in page.words
    for part in ("title", "meaning", "cure"):
        assert entry[part].replace("`", "") in page.words
        assert entry[part] in text.text
    assert text.headers["content-type"].startswith("text/plain")


def test_the_index_has_each_code(client: TestClient) -> None:
    """With a link to its page; as text there is one line per code."""
    page = _require_strict(client.simulate_get("/problems"))
    text = client.simulate_get("/problems", headers={"Accept": "text/plain"})
    codes = sorted(problem_codes())

    assert [link for link in page.links if link.startswith("/problems/")] == [
        f"/problems/{code}" for code in codes
    ]
    assert [line.partition(":")[0] for line in text.text.splitlines()] == codes
    assert text.headers["content-type"].startswith("text/plain")
    assert text.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "text/html"),
        ("*/*", "text/html"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("text/plain", "text/plain"),
        ("text/plain, text/html;q=0.5", "text/plain"),
        ("application/json", "text/html"),
        ("/;;,q=nonsense", "text/html"),
    ],
)
def test_the_form_of_a_page(
    client: TestClient, accept: str | None, media_type: str
) -> None:
    """HTML, unless the client prefers text."""
    headers = {} if accept is None else {"Accept": accept}
    answer = client.simulate_get("/problems/forbidden", headers=headers)

    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("code", ["unknown", "debug-forbidden", "<i>", "a" * 99])
def test_other_codes_have_no_page(client: TestClient, code: str) -> None:
    """Refusals of the guard and alerts are for operators, not for callers."""
    answer = client.simulate_get(f"/problems/{code}")

    assert (answer.status_code, answer.json["code"]) == (404, "not-found")


def test_the_type_of_a_problem_is_its_page(client: TestClient) -> None:
    problem = get(client, "/v1/refunds?limit=0").json

    assert client.simulate_get(problem["type"]).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/problems", "/problems/forbidden"])
def test_pages_have_no_parameters(client: TestClient, path: str) -> None:
    answer = client.simulate_get(f"{path}?a=b")

    assert (answer.status_code, answer.json["code"]) == (400, "invalid-input")
