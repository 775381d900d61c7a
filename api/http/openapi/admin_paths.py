"""The routes of administrators, the probes, and the documentation itself."""

from collections.abc import Iterable
from typing import Any

from api.http.openapi import examples, problem_sets
from api.http.openapi.elements import (
    Element,
    answer,
    body,
    integer,
    one_of,
    operation,
    parameter,
    schema,
    text,
)
from api.http.openapi.refund_schemas import (
    ADDRESS_PATTERN,
    EVENT_ID_PATTERN,
    REFUND_ID_PATTERN,
)
from api.http.query import DEFAULT_LIMIT, MAX_LIMIT
from api.views.codes import problem_codes
from signer.model.delivery import DeliveryState


_SEGMENT = r"^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}$"
"""A segment of a path that no client encodes, and no proxy reads differently."""

_DIGEST = parameter(
    "digest",
    "path",
    text("The proposal's digest, or its first digits.", pattern="^[0-9a-f]{16,64}$"),
    required=True,
)
_ADDRESS = parameter(
    "address",
    "path",
    text(
        "The key's address, in lower case or with its EIP-55 checksum.",
        pattern=ADDRESS_PATTERN,
        format="address",
    ),
    required=True,
)
_TENANT = parameter(
    "tenant", "path", text("The tenant's name.", pattern=_SEGMENT), required=True
)
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


def _administration(
    operation_id: str,
    summary: str,
    description: str,
    /,
    *,
    scope: str,
    answers: dict[int, Element],
    problems: Iterable[str] = (),
    **members: Any,
) -> Element:
    has_body = "requestBody" in members
    return operation(
        operation_id,
        summary,
        description,
        tag="Administration",
        answers=answers,
        problems=problem_sets.ADMINISTRATOR
        | (problem_sets.BODY if has_body else set())
        | set(problems),
        security=[{"bearerToken": [scope]}],
        **{"x-roles": ["admin", "devops"]},
        **members,
    )


def _decision(operation_id: str, summary: str, description: str, scope: str) -> Element:
    return {
        "post": _administration(
            operation_id,
            summary,
            description,
            scope=scope,
            parameters=[_DIGEST],
            requestBody=body("Reason", examples.REASON),
            answers={200: answer("The proposal.", schema("Approval"))},
            problems={
                "same-person",
                "operator-not-identified",
                "not-found",
                "conflict",
            },
        )
    }


def _switch(operation_id: str, summary: str, content: str, *codes: str) -> Element:
    return {
        "post": _administration(
            operation_id,
            summary,
            "When the answer arrives, it is in force on every host. Can be repeated.",
            scope="signing:stop",
            requestBody=body("SwitchRequest", examples.SWITCH_REQUEST),
            answers={200: answer("What changed.", schema(content))},
            problems={"not-found", *codes},
        )
    }


_CHANGES = {"conflict", "rotation-in-progress"}

_KEYS: dict[str, Element] = {
    "/v1/admin/kms/rotate": {
        "post": _administration(
            "rotateKey",
            "Rotate the key",
            """
            Makes another key the active one, on all hosts, after it has signed a
            self-test. Repeating the request is safe. It uses up its token.
            """,
            scope="keys:rotate",
            requestBody=body("RotationRequest", examples.ROTATION_REQUEST),
            answers={
                200: answer("The key is active, or would be.", schema("Rotation")),
                202: answer(
                    "The old key signs until the new address has funds: repeat then.",
                    schema("Rotation"),
                ),
            },
            problems=_CHANGES | problem_sets.APPROVAL | problem_sets.DEVICE,
        )
    },
    "/v1/admin/kms/failover": {
        "post": _administration(
            "failOverKey",
            "Fail over to a replica",
            "Uses the replica of a key in another region; address and nonces stay.",
            scope="keys:rotate",
            requestBody=body("FailoverRequest", examples.FAILOVER_REQUEST),
            answers={200: answer("The key is there, or was.", schema("Failover"))},
            problems=_CHANGES | problem_sets.DEVICE | {"not-found"},
        )
    },
    "/v1/admin/keys": {
        "get": _administration(
            "listKeys",
            "List the keys",
            "The keys that sign or have signed.",
            scope="keys:read",
            answers={200: answer("The key ring.", schema("KeyList"))},
        )
    },
    "/v1/admin/keys/{address}/reinstate": {
        "post": _administration(
            "reinstateKey",
            "Reinstate a revoked key",
            "Undoes a revocation by mistake, for 24 hours. The key is draining again.",
            scope="keys:rotate",
            parameters=[_ADDRESS],
            requestBody=body("Reason", examples.REASON),
            answers={200: answer("The key.", schema("ReinstatedKey"))},
            problems={"not-found", "conflict"} | problem_sets.APPROVAL,
        )
    },
}

_DECISIONS: dict[str, Element] = {
    "/v1/admin/tenants/{tenant}/block": {
        "post": _administration(
            "blockTenant",
            "Block a tenant",
            "At once, on all hosts. It can be repeated.",
            scope="tenants:block",
            parameters=[_TENANT],
            requestBody=body("OptionalReason", examples.REASON, required=False),
            answers={200: answer("What changed.", schema("BlockedTenant"))},
            problems={"not-found"},
        )
    },
    "/v1/admin/tenants/{tenant}/unblock": {
        "post": _administration(
            "unblockTenant",
            "Unblock a tenant",
            "It can be repeated.",
            scope="tenants:block",
            parameters=[_TENANT],
            requestBody=body("OptionalReason", examples.REASON, required=False),
            answers={200: answer("What changed.", schema("UnblockedTenant"))},
            problems={"not-found"} | problem_sets.APPROVAL,
        )
    },
    "/v1/admin/stop": _switch("stopSigning", "Stop signing", "Stopped"),
    "/v1/admin/resume": _switch(
        "resumeSigning", "Resume signing", "Resumed", *problem_sets.APPROVAL
    ),
    "/v1/admin/stops": {
        "get": _administration(
            "listStops",
            "List the stops",
            "The stops that are in force.",
            scope="signing:stop",
            answers={200: answer("The stops.", schema("Stops"))},
        )
    },
    "/v1/admin/approvals": {
        "get": _administration(
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
    "/v1/admin/approvals/{digest}/approve": _decision(
        "approveChange",
        "Approve a change",
        "The administrator who asked cannot approve. Then repeat the first request.",
        "approvals:decide",
    ),
    "/v1/admin/approvals/{digest}/reject": _decision(
        "rejectChange",
        "Reject a change",
        "Rejects a change, or withdraws one's own.",
        "approvals:decide",
    ),
    "/v1/admin/approvals/{digest}/break-glass": _decision(
        "breakGlass",
        "Approve a change alone",
        "For emergencies: it is recorded, and raises an alert.",
        "approvals:break-glass",
    ),
}

_WEBHOOKS: dict[str, Element] = {
    "/v1/admin/webhooks/deliveries": {
        "get": _administration(
            "listDeliveries",
            "List deliveries of webhooks",
            "Newest first; each parameter selects.",
            scope="webhooks:read",
            parameters=_DELIVERY_PARAMETERS,
            answers={200: answer("A page of deliveries.", schema("DeliveryList"))},
        )
    },
    "/v1/admin/webhooks/deliveries/{event_id}": {
        "get": _administration(
            "getDelivery",
            "Get the delivery of an event",
            "Whether the webhook has it, and why not.",
            scope="webhooks:read",
            parameters=[_EVENT_ID],
            answers={200: answer("The delivery.", schema("Delivery"))},
            problems={"not-found"},
        )
    },
    "/v1/admin/webhooks/deliveries/{event_id}/replay": {
        "post": _administration(
            "replayEvent",
            "Send an event again",
            """
            Also one that was given up, or has arrived: its receiver sees the same id
            again. It has no body, can be repeated, and is audited.
            """,
            scope="webhooks:replay",
            parameters=[_EVENT_ID],
            answers={200: answer("The delivery, which is due.", schema("Delivery"))},
            problems={"not-found"},
        )
    },
    "/v1/admin/webhooks/replay": {
        "post": _administration(
            "replayDead",
            "Send what was given up again",
            """
            Up to 1,000 given-up deliveries of one tenant, the oldest first. Repeat it
            until `complete` is true. It is audited.
            """,
            scope="webhooks:replay",
            requestBody=body("DeadReplayRequest", examples.DEAD_REPLAY),
            answers={200: answer("How many are due again.", schema("DeadReplay"))},
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

PATHS: dict[str, Element] = _KEYS | _DECISIONS | _WEBHOOKS | _SERVICE
