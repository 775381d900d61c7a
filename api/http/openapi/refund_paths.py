"""The routes of tenants."""

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
from api.http.query import DEFAULT_LIMIT, MAX_LIMIT
from api.views.document import REFUND_ID_PATTERN
from api.views.refund_files import MEDIA_TYPES
from signer.model.refund import Status
from signer.refunds.request_body import KEY_PATTERN


_TAG = "Refunds"

_WRITE: dict[str, Any] = {
    "security": [{"bearerToken": ["refunds:write"]}],
    "x-roles": ["merchant"],
}
_READ: dict[str, Any] = {
    "security": [{"bearerToken": ["refunds:read"]}],
    "x-roles": ["merchant"],
}

_REFUND_ID = parameter(
    "refund_id",
    "path",
    text("The refund's id.", pattern=REFUND_ID_PATTERN),
    required=True,
)

_IDEMPOTENCY_KEY = parameter(
    "Idempotency-Key",
    "header",
    text(
        """
        Names the request of the tenant, for ever: repeat it with the same key. A
        request that was refused does not use it up.
        """,
        pattern=KEY_PATTERN,
    ),
    required=True,
)

_PREFER = parameter(
    "Prefer",
    "header",
    text(
        """
        `respond-async`: do not wait for a worker. `wait=10`: wait up to 10 seconds, at
        most 20, until the refund is final. Other preferences are ignored (RFC 7240).
        """
    ),
    required=False,
)

_PREFER_EVENT = parameter(
    "Prefer",
    "header",
    text(
        """
        `wait=10`: if the page is empty, wait up to 10 seconds, at most 20, for the next
        event. Other preferences are ignored (RFC 7240).
        """
    ),
    required=False,
)

_SIGNATURE = [
    parameter(
        name,
        "header",
        text("Only of a tenant that signs its requests: see Signed requests."),
        required=False,
    )
    for name in ("Content-Digest", "Signature-Input", "Signature")
]

_REFUND = schema("Refund")

_TIME_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2}))?$"

_AMOUNT_PATTERN = "^(0|[1-9][0-9]{0,77})([.][0-9]{1,36})?$"

_FILTERS = [
    parameter(name, "query", content, required=False)
    for name, content in (
        (
            "payment_session_id",
            text("Only those of one payment.", pattern="^[!-~]{1,128}$"),
        ),
        ("status", one_of(Status, "Only those with one status.")),
        ("network", text("Only those on one network.", pattern="^[!-~]{1,128}$")),
        (
            "created_from",
            text(
                "Only those created at this time or later, a date or RFC 3339.",
                pattern=_TIME_PATTERN,
            ),
        ),
        (
            "created_before",
            text("Only those created before this time.", pattern=_TIME_PATTERN),
        ),
        (
            "min_amount",
            text(
                "Only those of at least so many whole tokens.", pattern=_AMOUNT_PATTERN
            ),
        ),
        (
            "max_amount",
            text(
                "Only those of at most so many whole tokens.", pattern=_AMOUNT_PATTERN
            ),
        ),
    )
]

_LIST_PARAMETERS = [
    *_FILTERS,
    parameter(
        "limit",
        "query",
        integer(
            "Refunds per page.", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT
        ),
        required=False,
    ),
    parameter(
        "cursor",
        "query",
        text("The `next_cursor` of the previous page.", pattern=REFUND_ID_PATTERN),
        required=False,
    ),
]

_COLLECTION: Element = {
    "post": operation(
        "createRefund",
        "Create a refund",
        """
        The refund is stored before the answer, and a worker brings it to a final
        status. The answer waits up to three seconds for the worker to send it. Read
        `status`, not only 201.

        After a timeout, a lost connection or a 5xx but 501, repeat the request with the
        same `Idempotency-Key`: it is paid once, and the answer has the refund as it is
        now.

        A second refund of one payment needs a `reference` of its own, such as
        `ps_2931/part-2`, also if the first one was cancelled, refused or failed: the
        default is `payment_session_id`, and a reference that is in use is 409
        `conflict`. An unknown network or token, an amount out of bounds, or a recipient
        that the operator denies, is 422 `policy-violation`, and `rule` names it. What
        delays a refund, such as
        `limit-reached` or `insufficient-funds`, is no error of this request: the refund
        waits (`blocked_by` of its explanation).
        """,
        tag=_TAG,
        parameters=[_IDEMPOTENCY_KEY, _PREFER, *_SIGNATURE],
        requestBody=body(
            "RefundRequest",
            examples.REFUND_REQUEST,
            others={"Second refund of one payment": examples.SECOND_REFUND_REQUEST},
        ),
        answers={
            201: answer(
                "The refund was accepted.",
                _REFUND,
                examples.REFUND,
                headers=("Location", "Preference-Applied"),
            ),
            200: answer(
                "The refund of this `Idempotency-Key`, as it is now.",
                _REFUND,
                headers=("Location", "Idempotent-Replayed", "Preference-Applied"),
            ),
        },
        problems=problem_sets.MERCHANT | problem_sets.ACCEPTANCE,
        **_WRITE,
    ),
    "get": operation(
        "listRefunds",
        "List refunds",
        """
        The refunds of the caller's tenant, newest first. Refunds that are created in
        the meantime neither repeat nor hide others. With `network`, `min_amount` or
        `max_amount` a page looks at 5,000 refunds at most, so it may have fewer than
        `limit`, or none, and still a `next_cursor`.
        """,
        tag=_TAG,
        parameters=_LIST_PARAMETERS,
        answers={
            200: answer(
                "A page of refunds.",
                schema("RefundList"),
                {"refunds": [examples.REFUND], "next_cursor": None},
                headers=("Link",),
            )
        },
        problems=problem_sets.MERCHANT,
        **_READ,
    ),
}

_EXPORT: Element = {
    "get": operation(
        "exportRefunds",
        "Export refunds",
        """
        All refunds of the caller's tenant that the parameters describe, newest first,
        as one file. It is sent while it is read, so a file that ends without the last
        chunk is not complete. A tenant receives one at a time: another is 429.

        No cell of the CSV is a formula: one that begins like a formula has `'` before
        it. A line of `jsonl` is a refund with its tenant.
        """,
        tag=_TAG,
        parameters=[
            *_FILTERS,
            parameter(
                "format",
                "query",
                one_of(MEDIA_TYPES, "The format, `csv` by default."),
                required=False,
            ),
        ],
        answers={
            200: {
                **answer("The file.", None),
                "content": {
                    media_type.partition(";")[0]: {"schema": text("A line per refund.")}
                    for media_type in MEDIA_TYPES.values()
                },
            }
        },
        problems=problem_sets.MERCHANT,
        **_READ,
    ),
}

_BATCH: Element = {
    "post": operation(
        "createRefunds",
        "Create many refunds",
        """
        Each member is accepted or refused by itself, and has its own result. The answer
        does not wait for the workers. The body has at most 1 MiB.

        A member that is no object, or whose `idempotency_key` is missing, malformed or
        used twice, makes the answer 400, and no member is accepted.
        """,
        tag=_TAG,
        requestBody=body("BatchRequest", examples.BATCH_REQUEST),
        answers={
            200: answer(
                "One result for each member. 200 does not say that one was accepted.",
                schema("BatchResults"),
                examples.BATCH_RESULTS,
            )
        },
        problems=problem_sets.MERCHANT | problem_sets.BODY | {"tenant-blocked"},
        **_WRITE,
    )
}

_PREVIEW: Element = {
    "post": operation(
        "previewRefund",
        "Preview a refund",
        """
        What would happen with the same request to `POST /v1/refunds`. It stores and
        reserves nothing, and counts against no spending limit. It promises nothing
        either: a moment later, another refund may have used a limit.

        A malformed value is a 400 of the preview itself. What the policy refuses, such
        as an unknown token, is 200 with `outcome` `refuse` and the `problem`.

        The signature of a request, rates and `max_open_refunds` are not looked at.
        """,
        tag=_TAG,
        requestBody=body("RefundRequest", examples.REFUND_REQUEST),
        answers={
            200: answer(
                "The outcome, also of a refund that the policy would refuse.",
                schema("Preview"),
                examples.PREVIEW,
            )
        },
        problems=problem_sets.MERCHANT | problem_sets.BODY | {"screening-unavailable"},
        **_READ,
    )
}

_ONE: Element = {
    "get": operation(
        "getRefund",
        "Get a refund",
        "A refund of the caller's tenant. `Prefer: wait=10` waits until it is final.",
        tag=_TAG,
        parameters=[_REFUND_ID, _PREFER],
        answers={
            200: answer(
                "The refund.", _REFUND, examples.REFUND, headers=("Preference-Applied",)
            )
        },
        problems=problem_sets.MERCHANT | {"not-found"},
        **_READ,
    )
}

_CANCEL: Element = {
    "post": operation(
        "cancelRefund",
        "Cancel a refund",
        """
        Cancels a refund that has no nonce yet: one that is `awaiting-approval` or
        `queued`. Any later status is 409 `not-cancellable`, and the refund goes on. The
        request can be repeated, and has no body. `reference` and key stay in use.
        """,
        tag=_TAG,
        parameters=[_REFUND_ID],
        answers={
            200: answer(
                "Nothing was sent, and nothing will be.",
                _REFUND,
                examples.CANCELLED_REFUND,
            ),
            202: answer(
                """
                No worker has cancelled it yet. The request stays in force, and no
                transaction is made for it: poll the refund until it is `cancelled`. It
                is `mined` and then `confirmed` only if it had been paid before the
                database was restored from a backup.
                """,
                _REFUND,
            ),
        },
        problems=problem_sets.MERCHANT
        | {"not-found", "not-cancellable", "tenant-blocked"},
        **_WRITE,
    )
}

_EXPLAIN: Element = {
    "get": operation(
        "explainRefund",
        "Explain a refund",
        """
        Why the refund has its status, and what happens next. It changes nothing, asks
        the refund's nodes once, and answers also while they are down. What begins with
        `To do:` is for the operator.
        """,
        tag=_TAG,
        parameters=[_REFUND_ID],
        answers={
            200: answer("The explanation.", schema("Explanation"), examples.EXPLANATION)
        },
        problems=problem_sets.MERCHANT | {"not-found"},
        **_READ,
    )
}

_TOKENS: Element = {
    "get": operation(
        "listTokens",
        "List tokens",
        """
        What the caller's tenant may have refunded. The amounts are the stricter ones of
        the service's and the tenant's.
        """,
        tag="Tokens",
        answers={200: answer("The tokens.", schema("TokenList"), examples.TOKENS)},
        problems=problem_sets.MERCHANT,
        **_READ,
    )
}

_NETWORKS: Element = {
    "get": operation(
        "listNetworks",
        "List networks",
        "Where refunds are paid.",
        tag="Tokens",
        answers={
            200: answer("The networks.", schema("NetworkList"), examples.NETWORKS)
        },
        problems=problem_sets.MERCHANT,
        **_READ,
    )
}

_EVENTS: Element = {
    "get": operation(
        "listEvents",
        "List events",
        """
        The events of the tenant's refunds, oldest first. Without `after` the page
        begins with the oldest ones that are kept. An event never appears before a
        cursor that was given out.
        """,
        tag=_TAG,
        parameters=[
            parameter(
                "after",
                "query",
                text(
                    "The `next_cursor` of a page.", pattern="^[0-9]{1,16}$", default="0"
                ),
                required=False,
            ),
            parameter(
                "limit",
                "query",
                integer(
                    "Events per page.",
                    minimum=1,
                    maximum=MAX_LIMIT,
                    default=DEFAULT_LIMIT,
                ),
                required=False,
            ),
            _PREFER_EVENT,
        ],
        answers={
            200: answer(
                "A page of events.",
                schema("EventList"),
                {"events": [examples.EVENT], "next_cursor": "1795521600412907"},
                headers=("Preference-Applied",),
            )
        },
        problems=problem_sets.MERCHANT | {"cursor-expired"},
        **_READ,
    )
}

_WEBHOOK_KEYS: Element = {
    "get": operation(
        "listWebhookKeys",
        "List the keys of webhooks",
        "The public keys that verify the signatures of webhooks (RFC 7517).",
        tag=_TAG,
        answers={
            200: answer("The keys.", schema("WebhookKeys"), examples.WEBHOOK_KEYS)
        },
        problems=problem_sets.HTTP | problem_sets.DATABASE | {"invalid-input"},
        security=[{}],
    )
}

PATHS: dict[str, Element] = {
    "/v1/events": _EVENTS,
    "/v1/webhooks/keys": _WEBHOOK_KEYS,
    "/v1/refunds": _COLLECTION,
    "/v1/refunds/export": _EXPORT,
    "/v1/refunds/batch": _BATCH,
    "/v1/refunds/preview": _PREVIEW,
    "/v1/refunds/{refund_id}": _ONE,
    "/v1/refunds/{refund_id}/cancel": _CANCEL,
    "/v1/refunds/{refund_id}/explain": _EXPLAIN,
    "/v1/tokens": _TOKENS,
    "/v1/networks": _NETWORKS,
}
