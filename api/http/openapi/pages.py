"""
Renders the document and the codes as HTML pages, without scripts or other files.

The policy of the pages allows nothing but their own style sheet, by its hash.  All text
is escaped, although none of it is the caller's.
"""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from api.http.problems import code_statuses
from api.views.codes import problem_codes


# Imported by the first page: most processes never render one.
if TYPE_CHECKING:
    from jinja2 import Environment


_CSS = (
    files("api.http.openapi")
    .joinpath("templates/pages.css")
    .read_text(encoding="utf-8")
    .strip()
)

_HASH = b64encode(sha256(_CSS.encode()).digest()).decode()

CONTENT_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
"""The ``Content-Security-Policy`` of the pages."""


def render_document(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI *document*."""
    from api.http.openapi.markdown import headings  # noqa: PLC0415

    tags = [
        (
            tag,
            [*headings(tag["description"])],
            [*_operations(document, tag["name"])],
        )
        for tag in document["tags"]
    ]
    return _render("document.html", document=document, tags=tags)


def render_problem(entry: Mapping[str, str]) -> str:
    """Return the page of a code."""
    return _render("problem.html", entry=entry)


def problem_text(entry: Mapping[str, str]) -> str:
    """Return what ``render_problem`` says as plain text."""
    return (
        f"{entry['code']}: {entry['title']}\n\n"
        f"Meaning: {entry['meaning']}\n"
        f"Cure:    {entry['cure']}\n"
    )


def render_index() -> str:
    """Return the page of all codes."""
    return _render("problems.html")


def index_text() -> str:
    """Return what ``render_index`` has as plain text: one code per line."""
    codes = sorted(problem_codes().items())
    return "".join(f"{code}: {entry['title']}\n" for code, entry in codes)


def _operations(
    document: Mapping[str, Any], tag: str
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield path, method and operation of each operation with *tag*."""
    webhooks = [("to your webhook", each) for each in document["webhooks"].values()]
    for path, operations in [*document["paths"].items(), *webhooks]:
        for method, operation in operations.items():
            if tag in operation["tags"]:
                yield path, method, operation


def _render(template: str, **values: object) -> str:
    return _environment().get_template(template).render(values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    from api.http.openapi.markdown import MARKDOWN  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("api.http.openapi"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        json=lambda value: json.dumps(value, indent=2),
        markdown=lambda text: Markup(MARKDOWN.render(text)),  # noqa: S704  No HTML.
        inline=lambda text: Markup(MARKDOWN.renderInline(text)),  # noqa: S704
    )
    environment.globals.update(
        css=Markup(_CSS),  # noqa: S704  It is a file of this package.
        statuses=code_statuses(),
        codes=dict(sorted(problem_codes().items())),
    )
    return environment
