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
from html import escape
from importlib.resources import files
from typing import Any

from api.http.openapi.markdown import headings, inline, paragraphs
from api.http.openapi.schema_tables import (
    constraints,
    render_members,
    render_type,
    schema_link,
)
from api.http.problems import code_statuses
from api.views.codes import problem_codes


_CSS = (
    files("api.http.openapi").joinpath("pages.css").read_text(encoding="utf-8").strip()
)

_HASH = b64encode(sha256(_CSS.encode()).digest()).decode()

CONTENT_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
"""The ``Content-Security-Policy`` of the pages."""


_REQUIRED = ' <span class="required">required</span>'


def render_document(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI *document*."""
    info = document["info"]
    return _page(f"{info['title']} API", "".join(_document(document)))


def render_problem(entry: Mapping[str, str]) -> str:
    """Return the page of a code."""
    code = entry["code"]
    body = (
        f'<main><p class="soft"><a href="/docs">hotwallet API</a>,'
        f' <a href="/problems">all codes</a></p>'
        f"<h1>{inline(entry['title'])}</h1>"
        f'<p class="soft"><code>{escape(code)}</code>{_status(code)}</p>'
        f"<h2>What it means</h2><p>{inline(entry['meaning'])}</p>"
        f"<h2>What to do</h2><p>{inline(entry['cure'])}</p></main>"
    )
    return _page(entry["title"], body)


def problem_text(entry: Mapping[str, str]) -> str:
    """Return what ``render_problem`` says as plain text."""
    return (
        f"{entry['code']}: {entry['title']}\n\n"
        f"Meaning: {entry['meaning']}\n"
        f"Cure:    {entry['cure']}\n"
    )


def render_index() -> str:
    """Return the page of all codes."""
    body = (
        '<main><p class="soft"><a href="/docs">hotwallet API</a></p>'
        f"<h1>Codes of errors</h1>{_codes()}</main>"
    )
    return _page("Codes of errors", body)


def index_text() -> str:
    """Return what ``render_index`` has as plain text: one code per line."""
    codes = sorted(problem_codes().items())
    return "".join(f"{code}: {entry['title']}\n" for code, entry in codes)


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _status(code: str) -> str:
    status = code_statuses().get(code)
    return "" if status is None else f", HTTP {status}"


def _document(document: Mapping[str, Any]) -> Iterator[str]:
    info, tags = document["info"], document["tags"]
    by_tag = {tag["name"]: list(_operations(document, tag["name"])) for tag in tags}
    guides = {tag["name"]: list(headings(tag["description"])) for tag in tags}
    navigation = _navigation(by_tag, guides)
    yield f'<div class="layout"><nav aria-label="Contents">{navigation}</nav>'
    yield f"<main><h1>{escape(info['title'])} API</h1>"
    yield f'<p class="soft">Version {escape(info["version"])}. '
    yield 'The same for programs: <a href="/openapi.json">/openapi.json</a></p>'
    yield paragraphs(info["description"])
    for tag in tags:
        name = tag["name"]
        yield f'<h2 id="{_slug(name)}">{escape(name)}</h2>'
        yield paragraphs(tag["description"])
        for path, method, operation in by_tag[name]:
            yield f'<section id="{operation["operationId"]}">'
            yield from _operation(document, path, method, operation)
            yield "</section>"
    yield f'<h2 id="headers">Headers of answers</h2>{_headers(document)}'
    yield '<h2 id="schemas">Schemas</h2>'
    for name, schema in document["components"]["schemas"].items():
        yield f'<section id="schema-{name}"><h3>{name}</h3>'
        yield paragraphs(schema.get("description", ""))
        yield f"{render_members(schema)}</section>"
    yield f'<h2 id="codes">Codes of errors</h2>{_codes()}</main></div>'


def _operations(
    document: Mapping[str, Any], tag: str
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    webhooks = [("to your webhook", each) for each in document["webhooks"].values()]
    for path, operations in [*document["paths"].items(), *webhooks]:
        for method, operation in operations.items():
            if tag in operation["tags"]:
                yield path, method, operation


def _navigation(by_tag: Mapping[str, Any], guides: Mapping[str, Any]) -> str:
    parts = []
    for tag, operations in by_tag.items():
        parts.append(f'<h2><a href="#{_slug(tag)}">{escape(tag)}</a></h2><ul>')
        parts += [
            f'<li><a href="#{anchor}">{escape(words)}</a></li>'
            for anchor, words in guides[tag]
        ]
        parts += [
            f'<li><a href="#{each["operationId"]}">{escape(each["summary"])}</a></li>'
            for _, _, each in operations
        ]
        parts.append("</ul>")
    parts.append('<h2>More</h2><ul><li><a href="#headers">Headers of answers</a></li>')
    parts.append('<li><a href="#schemas">Schemas</a></li>')
    parts.append('<li><a href="#codes">Codes of errors</a></li></ul>')
    return "".join(parts)


def _operation(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> Iterator[str]:
    yield f"<h3>{escape(operation['summary'])}</h3>"
    yield f'<p class="route"><span class="method {method}">{method.upper()}</span>'
    yield f"{escape(path)}</p>"
    yield paragraphs(operation["description"])
    yield f'<p class="soft">{_permission(operation)}</p>'
    if operation.get("parameters"):
        yield f"<h4>Parameters</h4>{_parameters(operation['parameters'])}"
    if "requestBody" in operation:
        (media,) = operation["requestBody"]["content"].values()
        yield f"<h4>Body</h4><p>{schema_link(media['schema'])}</p>"
        yield _example(media)
    yield from _answers(document, operation["responses"])


def _permission(operation: Mapping[str, Any]) -> str:
    roles = operation.get("x-roles")
    if not operation["security"]:
        return "The service sends it; its signature proves that."
    if not roles:
        return "No access token is needed."
    (scheme,) = operation["security"]
    (scope,) = scheme["bearerToken"]
    named = " or ".join(f"<code>{escape(role)}</code>" for role in roles)
    return f"Role {named}, scope <code>{escape(scope)}</code>."


def _parameters(parameters: list[Mapping[str, Any]]) -> str:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code>"
        f"{_REQUIRED if each['required'] else ''}</td>"
        f"<td>{each['in']}</td><td>{render_type(each['schema'])}</td>"
        f"<td>{paragraphs(each['description'])}{constraints(each['schema'])}</td></tr>"
        for each in parameters
    ]
    head = "<tr><th>Name</th><th>In</th><th>Type</th><th>Meaning</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _answers(
    document: Mapping[str, Any], responses: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a table of what the operation answers, and its errors folded away."""
    problems = {status: each for status, each in responses.items() if "$ref" in each}
    answers = {status: each for status, each in responses.items() if "$ref" not in each}
    yield "<h4>Answers</h4><table>"
    yield "<tr><th>Status</th><th>Content</th><th>Meaning</th><th>Headers</th></tr>"
    for status, each in answers.items():
        shown = ", ".join(
            schema_link(media["schema"]) for media in each.get("content", {}).values()
        )
        about = paragraphs(each["description"])
        yield f"<tr><td>{status}</td><td>{shown}</td><td>{about}</td>"
        yield f"<td>{_header_links(each)}</td></tr>"
    yield "</table>"
    for each in answers.values():
        for media in each.get("content", {}).values():
            yield _example(media)
    if not problems:
        return
    yield "<details><summary>Errors</summary><p>Each is a "
    yield '<a href="#schema-Problem">Problem</a>.</p>'
    yield "<table><tr><th>Status</th><th>Codes</th><th>Headers</th></tr>"
    for status, each in problems.items():
        shared = document["components"]["responses"][f"problem-{status}"]
        yield f"<tr><td>{status}</td><td>{_code_links(each['description'])}</td>"
        yield f"<td>{_header_links(shared)}</td></tr>"
    yield "</table></details>"


def _header_links(response: Mapping[str, Any]) -> str:
    return ", ".join(
        f'<a href="#header-{escape(name)}">{escape(name)}</a>'
        for name in response.get("headers", {})
        if name != "X-Request-Id"  # Every answer has it.
    )


def _headers(document: Mapping[str, Any]) -> str:
    rows = [
        f'<tr><td><code id="header-{escape(name)}">{escape(name)}</code></td>'
        f"<td>{paragraphs(each['description'])}{constraints(each['schema'])}</td></tr>"
        for name, each in document["components"]["headers"].items()
    ]
    head = "<tr><th>Name</th><th>Meaning</th></tr>"
    return f"<p>Every answer has X-Request-Id.</p><table>{head}{''.join(rows)}</table>"


def _code_links(described: str) -> str:
    codes = [code.strip("`") for code in described.split(", ")]
    return ", ".join(
        f'<a href="/problems/{escape(code)}"><code>{escape(code)}</code></a>'
        for code in codes
    )


def _example(media: Mapping[str, Any]) -> str:
    if "examples" in media:
        return "".join(
            f'<p class="soft">{escape(name)}</p>{_example({"example": each["value"]})}'
            for name, each in media["examples"].items()
        )
    if "example" not in media:
        return ""
    text = escape(json.dumps(media["example"], indent=2))
    return f'<pre tabindex="0">{text}</pre>'


def _place(entry: Mapping[str, str]) -> str:
    """Return the HTTP status of a code, or where else it appears."""
    if entry["kind"] == "failure":
        return "<code>failure.code</code>"
    return str(code_statuses().get(entry["code"], ""))


@cache
def _codes() -> str:
    rows = [
        f"<tr><td>{_code_links(code)}</td><td>{_place(entry)}</td>"
        f"<td>{inline(entry['title'])}</td></tr>"
        for code, entry in sorted(problem_codes().items())
    ]
    head = "<tr><th>Code</th><th>Status</th><th>Meaning</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _slug(name: str) -> str:
    return "tag-" + escape(name.lower().replace(" ", "-"))
