"""The routes of administrators, the probes, and the documentation itself."""

from typing import Any

from api.http.openapi import examples, problem_sets
from api.http.openapi.action_operations import action_paths, administration
from api.http.openapi.elements import (
    Element,
    answer,
    integer,
    one_of,
    operation,
    parameter,
    schema,
    text,
)
from api.http.query import DEFAULT_LIMIT, MAX_LIMIT
from api.views.codes import problem_codes
from api.views.document import EVENT_ID_PATTERN, REFUND_ID_PATTERN
from signer.model.delivery import DeliveryState


_EVENT_ID = parameter(
    "event_id", "path", text("The event's id.", pattern=EVENT_ID_PATTERN), required=True
)
_DELIVERY_PARAMETERS = [
    parameter(name, "query", content, required=False)
    for name, content in {
        "tenant": text("Only those of one tenant.", pattern="^[!-~]{1,128}$"),
        "state": one_of(DeliveryState, "Only those in one state."),
        "refund": text("Only those of one refund.", pattern=REFUND_ID_PATTERN),
        "limit": integer(
            "Deliveries per page.", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT
        ),
        "cursor": text("The `nextCursor` of a page.", pattern="^[0-9]{1,16}$"),
    }.items()
]
_CODE = parameter(
    "code", "path", one_of(sorted(problem_codes()), "A code."), required=True
)

_HTML = text("A page.")

_PAGE_OR_TEXT = {
    **answer("The page.", _HTML, media_type="text/html"),
    "content": {"text/html": {"schema": _HTML}, "text/plain": {"schema": _HTML}},
}


_LISTS: dict[str, Element] = {
    "/v1/admin/keys": {
        "get": administration(
            "listKeys",
            "List the keys",
            "The keys that sign or have signed.",
            scope="keys:read",
            answers={200: answer("The key ring.", schema("KeyList"))},
        )
    },
    "/v1/admin/stops": {
        "get": administration(
            "listStops",
            "List the stops",
            "The stops that are in force.",
            scope="signing:stop",
            answers={200: answer("The stops.", schema("Stops"))},
        )
    },
    "/v1/admin/approvals": {
        "get": administration(
            "listApprovals",
            "List what waits for approval",
            "Changes that need two administrators, and wait or are approved.",
            scope="approvals:read",
            parameters=[
                parameter(
                    "cursor",
                    "query",
                    text(
                        "The `nextCursor` of a page.",
                        pattern="^[0-9]{1,9}$",
                        default="0",
                    ),
                    required=False,
                )
            ],
            answers={200: answer("The proposals.", schema("ApprovalList"))},
        )
    },
    "/v1/admin/webhooks/deliveries": {
        "get": administration(
            "listDeliveries",
            "List deliveries of webhooks",
            "Newest first; each parameter selects.",
            scope="webhooks:read",
            parameters=_DELIVERY_PARAMETERS,
            answers={200: answer("A page of deliveries.", schema("DeliveryList"))},
        )
    },
    "/v1/admin/webhooks/deliveries/{event_id}": {
        "get": administration(
            "getDelivery",
            "Get the delivery of an event",
            "Whether the webhook has it, and why not.",
            scope="webhooks:read",
            parameters=[_EVENT_ID],
            answers={200: answer("The delivery.", schema("Delivery"))},
            problems={"not-found"},
        )
    },
}

_NOT_READY = "Send requests to other hosts; a restart does not help."


def _public(
    operation_id: str,
    summary: str,
    description: str,
    answers: dict[int, Element],
    *codes: str,
    **members: Any,
) -> Element:
    return operation(
        operation_id,
        summary,
        description,
        tag="Service",
        answers=answers,
        problems=problem_sets.HTTP | set(codes),
        security=[{}],
        **members,
    )


def _probe(name: str, summary: str, answers: dict[int, Element]) -> Element:
    bare = {
        status: {k: v for k, v in each.items() if k != "content"}
        for status, each in answers.items()
    }
    about = "No token is needed."
    return {
        "get": _public(f"get{name}", summary, about, answers),
        "head": _public(f"head{name}", summary, about, bare),
    }


_SERVICE: dict[str, Element] = {
    "/metrics": {
        "get": operation(
            "getMetrics",
            "Metrics",
            "In the text format of Prometheus. `METRICS_OPEN` makes the route public.",
            tag="Service",
            answers={200: answer("The metrics.", _HTML, media_type="text/plain")},
            problems=problem_sets.TOKEN | {"invalid-input"},
            security=[{"bearerToken": ["metrics:read"]}],
            **{"x-roles": ["devops"]},
        )
    },
    "/healthz": _probe(
        "Health",
        "The process answers",
        {200: answer("It does.", schema("Liveness"), {"status": "ok"})},
    ),
    "/readyz": _probe(
        "Readiness",
        "The host can serve requests",
        {
            200: answer("It can.", schema("Readiness"), examples.READINESS),
            503: answer(f"It cannot. {_NOT_READY}", schema("Readiness")),
        },
    ),
    "/openapi.json": {
        "get": _public(
            "getDocument",
            "This document",
            "The routes that this process serves.",
            {200: answer("OpenAPI 3.1.", {"type": "object"})},
            "invalid-input",
        )
    },
    "/docs": {
        "get": _public(
            "getDocumentation",
            "This document as a page",
            "For browsers, without scripts.",
            {200: answer("The page.", _HTML, media_type="text/html")},
            "invalid-input",
        )
    },
    "/problems": {
        "get": _public(
            "listProblems",
            "All codes",
            "HTML, or text for `Accept: text/plain`.",
            {200: _PAGE_OR_TEXT},
            "invalid-input",
        )
    },
    "/problems/{code}": {
        "get": _public(
            "getProblem",
            "What a code means, and what to do",
            "HTML, or text for `Accept: text/plain`. The `type` of errors links here.",
            {200: _PAGE_OR_TEXT},
            *("not-found", "invalid-input"),
            parameters=[_CODE],
        )
    },
}

PATHS: dict[str, Element] = action_paths() | _LISTS | _SERVICE
