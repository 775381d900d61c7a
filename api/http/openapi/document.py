"""The whole document, and the part of it that one process serves."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

from api.extension import find_hooks
from api.http.openapi import examples
from api.http.openapi.elements import (
    Element,
    Operations,
    integer,
    parameter,
    schema,
    text,
)
from api.http.problems import MEDIA_TYPE, code_statuses
from api.views import (
    administration,
    allowances,
    explanations,
    problems,
    refunds,
    requests,
)
from api.views.codes import problem_codes
from api.views.document import EVENT_ID_PATTERN, schemas_of
from signer.refunds import request_body


WEBHOOKS_TAG = "Webhooks"

WEBHOOK_GUIDE = (
    files("api.http.openapi").joinpath("webhook_guide.md").read_text("utf-8")
)


def _header(name: str, about: str, pattern: str) -> Element:
    return parameter(name, "header", text(about, pattern=pattern), required=True)


_WEBHOOK_HEADERS = [
    _header(
        "webhook-id",
        "The event's `id`, which is the same in every attempt.",
        EVENT_ID_PATTERN,
    ),
    _header(
        "webhook-timestamp",
        """
        When this attempt was signed, in seconds since 1970. Refuse it if it differs
        by more than 5 minutes from your clock.
        """,
        "^[0-9]+$",
    ),
    _header(
        "webhook-signature",
        """
        Signatures with spaces in between, each with its scheme: `v1a,` (Ed25519) or
        `v1,` (HMAC-SHA-256) and Base64. One valid signature is enough.
        """,
        "^v1a?,[A-Za-z0-9+/]+=*( v1a?,[A-Za-z0-9+/]+=*)*$",
    ),
]

WEBHOOKS: dict[str, Element] = {
    "refundEvent": {
        "post": {
            "operationId": "receiveEvent",
            "tags": [WEBHOOKS_TAG],
            "summary": "Receive an event",
            "description": (
                "The service sends this request to the tenant's webhook. Verify its"
                " signature first."
            ),
            "parameters": _WEBHOOK_HEADERS,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [schema("Event"), schema("WebhookTest")]},
                        "example": examples.EVENT,
                    }
                },
            },
            "responses": {
                "2XX": {"description": "Received: the event is not sent again."},
                "default": {
                    "description": (
                        "Every other answer, a redirect included, and none within 10"
                        " seconds: the event is sent again later."
                    )
                },
            },
            "security": [],
        }
    }
}


VERSION = "1.0.0"
"""The version of the API, which is semantic; the path has the major version."""

_ABOUT = """
The HTTP API of hotwallet, which signs and sends stablecoin refunds for a payment
gateway.

* Send an access token (a JWT) as `Authorization: Bearer`. It needs the role that an
  operation names, and its scope too if the access token has scopes.
* Bodies are JSON in UTF-8, with known members only. Amounts are decimal strings in
  whole tokens, and times are UTC.
* Errors are problem documents (RFC 9457). Decide by `code`; the `type` is the path of a
  page that explains it. Ignore members of answers that you do not know.
* Unknown, repeated and malformed query parameters are errors.
* Pages such as `docs/how-to/sign-requests.md` are in the repository of the service.
"""

_EXTRAS: Sequence[Operations] = [*find_hooks("openapi")]
"""The operations of extras."""

_TAGS = {
    "Refunds": files("api.http.openapi")
    .joinpath("guide.md")
    .read_text("utf-8")
    .strip(),
    WEBHOOKS_TAG: WEBHOOK_GUIDE.strip(),
    **{each.tag: each.about.strip() for each in _EXTRAS},
    "Tokens": "What may be refunded, and its limits.",
    "Administration": "Keys, approvals, webhooks and the kill switch, for operators.",
    "Service": "Probes, metrics and this documentation.",
}

_HEADERS: dict[str, Element] = {
    "X-Request-Id": {
        "description": "Names the request in the service's log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    },
    "Location": {
        "description": "The path of the refund.",
        "required": True,
        "schema": {"type": "string", "pattern": "^/v1/refunds/rf_[0-9a-f]{32}$"},
    },
    "Idempotent-Replayed": {
        "description": "An earlier request with this key created the refund.",
        "required": True,
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Preference-Applied": {
        "description": "The preference that the answer follows; absent: none.",
        "schema": text("Such as `wait=10`.", pattern="^(respond-async|wait=[0-9]+)$"),
    },
    "Link": {
        "description": "The next page, if there is one (RFC 8288).",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": (
            "Seconds after which to repeat the request. Of the errors with 409, only"
            " `rotation-in-progress` has it."
        ),
        "schema": integer("Seconds.", minimum=0),
    },
}

# The modules whose models are the schemas.
_DOCUMENTS = (
    administration,
    request_body,
    refunds,
    requests,
    explanations,
    allowances,
    problems,
)

_RETRIED = (409, 429, 502, 503, 504)


@cache
def complete_document() -> Mapping[str, Any]:
    """Return the document of all routes; do not change it."""
    # A process that does not serve the routes of administrators loads them for this.
    from api.http import (  # noqa: PLC0415
        actions,
        administration,
        documentation,
        events,
        metrics,
        refunds,
    )

    paths = deepcopy(
        events.ROUTES.paths
        | events.KEYS.paths
        | refunds.ROUTES.paths
        | actions.action_paths()
        | administration.ROUTES.paths
        | metrics.PATHS
        | documentation.PROBES.paths
        | documentation.ROUTES.paths
    )
    for extra in _EXTRAS:
        paths |= deepcopy(dict(extra.paths))
    for path in paths.values():
        for operation in path.values():
            _add_problems(operation)
    schemas = schemas_of(*_DOCUMENTS, *(each.documents for each in _EXTRAS))
    # The table from errors to answers has them.
    codes = schemas["Problem"]["properties"]["code"]
    codes["enum"] = sorted(code_statuses())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hotwallet",
            "version": VERSION,
            "description": _ABOUT.strip(),
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": paths,
        "webhooks": WEBHOOKS,
        "components": {
            "securitySchemes": {
                "bearerToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": (
                        "An access token of the operator's issuer. It lives for five"
                        " minutes at most."
                    ),
                }
            },
            "headers": _HEADERS,
            "schemas": {
                **schemas,
                **actions.answer_schemas(),
                **{
                    name: each
                    for extra in _EXTRAS
                    for name, each in extra.schemas.items()
                },
                **actions.body_schemas(),
            },
            "responses": {
                f"problem-{status}": _problem(status)
                for status in sorted(set(code_statuses().values()))
            },
        },
    }


def document_of(routes: Mapping[str, Collection[str]]) -> Mapping[str, Any]:
    """
    Return the document of *routes*, with what they refer to.

    *routes* are the methods by path.  A path that the document lacks is left out.
    """
    whole = complete_document()
    paths = {
        path: {
            method: operation
            for method, operation in operations.items()
            if method.upper() in routes[path]
        }
        for path, operations in whole["paths"].items()
        if path in routes
    }
    tags = {
        tag
        for operations in paths.values()
        for operation in operations.values()
        for tag in operation["tags"]
    }
    components = whole["components"]
    # Webhooks have the events of refunds.
    webhooks = whole["webhooks"] if "/v1/events" in paths else {}
    tags |= {WEBHOOKS_TAG} if webhooks else set()
    used = [*paths.values(), webhooks, components["responses"]]
    schemas = _find_schemas(used, components)
    return {
        **whole,
        "webhooks": webhooks,
        "tags": [each for each in whole["tags"] if each["name"] in tags],
        "paths": paths,
        "components": {**components, "schemas": schemas},
    }


def _add_problems(operation: Element) -> None:
    """Add the responses of the operation's problems, by status."""
    by_status: dict[int, list[str]] = defaultdict(list)
    statuses = code_statuses()
    for code in operation["x-problems"]:
        by_status[statuses[code]].append(code)
    for status, codes in sorted(by_status.items()):
        if str(status) in operation["responses"]:
            _also_problem(operation["responses"][str(status)])
            continue
        operation["responses"][str(status)] = {
            "$ref": f"#/components/responses/problem-{status}",
            "description": ", ".join(f"`{code}`" for code in codes),
        }


def _also_problem(response: Element) -> None:
    """Add the problem to a response of the operation itself, as that of ``/readyz``."""
    if "content" in response:
        response["content"][MEDIA_TYPE] = {"schema": schema("Problem")}


def _problem(status: int) -> Element:
    titles = problem_codes()
    codes = [code for code, each in code_statuses().items() if each == status]
    described = [f"* `{code}`: {titles[code]['title']}." for code in sorted(codes)]
    headers = ["X-Request-Id", *(["Retry-After"] if status in _RETRIED else [])]
    media: Element = {"schema": schema("Problem")}
    if status == examples.PROBLEM["status"]:
        media["example"] = examples.PROBLEM
    return {
        "description": "\n".join(described),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {MEDIA_TYPE: media},
    }


def _find_schemas(
    parts: Sequence[Any], components: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the schemas that *parts* refer to, directly or through others."""
    found: set[str] = set()
    waiting = list(parts)
    prefix = "#/components/schemas/"
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            name = str(part.get("$ref", "")).removeprefix(prefix)
            if name in components["schemas"] and name not in found:
                found.add(name)
                waiting.append(components["schemas"][name])
    return {name: each for name, each in components["schemas"].items() if name in found}
