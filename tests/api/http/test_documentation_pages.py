"""``/docs`` and ``/problems``: pages that run nothing and load nothing."""

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from falcon.testing import Result, TestClient

from api.http.app import create_app
from api.http.openapi.document import complete_document
from api.views.codes import problem_codes
from tests.api.service import build_container
from tests.api.support import SettableClock, get
from tests.support.ledgers import copy_ledger, open_ledger


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
