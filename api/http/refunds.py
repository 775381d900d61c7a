"""The routes of tenants.  ``signer.refunds`` decides what they do."""

from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlencode

import falcon

from api.auth.authorization import Permission
from api.http import query
from api.http.body import (
    MAX_BATCH,
    Preference,
    read_bytes,
    read_idempotency_key,
    read_object,
    read_preference,
    read_signed_request,
)
from api.http.openapi import examples, problem_sets
from api.http.openapi.elements import answer, body, parameter, schema, text
from api.http.operations import Call, Routes
from api.http.problems import problem_of
from api.http.query import CURSOR, FORMAT, REFUND_FILTERS, limit_of
from api.http.refund_batch import submit_batch
from api.request_context import request_id
from api.views.allowances import (
    NetworkListDocument,
    PreviewDocument,
    TokenListDocument,
    network_document,
)
from api.views.document import REFUND_ID_PATTERN
from api.views.explanations import ExplanationDocument
from api.views.refund_files import MEDIA_TYPES
from api.views.refunds import BatchResultsDocument, RefundDocument, RefundListDocument
from signer import strict_json
from signer.errors import NotFoundError
from signer.model.refund import UNRESERVED, Refund, is_refund_id
from signer.model.spending_limits import list_allowances
from signer.refunds.request_body import KEY_PATTERN, read_refund
from signer.refunds.service import require_cancellable


MERCHANT = Permission(
    frozenset({"merchant"}), None, administrative=False, for_tenants=True
)

ROUTES = Routes(
    "Refunds",
    MERCHANT,
    problem_sets.MERCHANT,
    names={"refund_id": text("The refund's id.", pattern=REFUND_ID_PATTERN)},
)

READ, WRITE = "refunds:read", "refunds:write"

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
_LIMIT = limit_of("Refunds")


@ROUTES.post(
    "/v1/refunds",
    "createRefund",
    WRITE,
    headers=[_IDEMPOTENCY_KEY, _PREFER, *_SIGNATURE],
    body=body(
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
    problems=problem_sets.ACCEPTANCE,
)
def _create(call: Call) -> RefundDocument:
    """
    Create a refund.

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
    """
    req, resp, refunds = call.req, call.resp, call.container.refunds
    key, preferred = read_idempotency_key(req), read_preference(req)
    content = read_bytes(req)
    request = read_refund(strict_json.loads(content))
    with _admit(call, preferred) as may_wait:
        accepted = refunds.submit(
            tenant=call.tenant,
            idempotency_key=key,
            request=request,
            actor=call.actor,
            signed=read_signed_request(req, content),
            trace=req.get_header("traceparent"),
        )
        refund = accepted.refund
        if may_wait and preferred.seconds is not None:
            refund = _wait(call, refund, preferred.seconds)
        elif may_wait:
            refund = refunds.await_broadcast(refund)

    if preferred.is_async:
        resp.set_header("Preference-Applied", "respond-async")
    resp.status = falcon.HTTP_CREATED if accepted.created else falcon.HTTP_OK
    if not accepted.created:
        resp.set_header("Idempotent-Replayed", "true")
    resp.location = f"/v1/refunds/{refund.id}"
    return RefundDocument.of(refund)


@ROUTES.get(
    "/v1/refunds",
    "listRefunds",
    READ,
    takes=(*REFUND_FILTERS, _LIMIT, CURSOR),
    answers={
        200: answer(
            "A page of refunds.",
            schema("RefundList"),
            {"refunds": [examples.REFUND], "next_cursor": None},
            headers=("Link",),
        )
    },
)
def _list(call: Call) -> RefundListDocument:
    """
    List refunds.

    The refunds of the caller's tenant, newest first. Refunds that are created in
    the meantime neither repeat nor hide others. With `network`, `min_amount` or
    `max_amount` a page looks at 5,000 refunds at most, so it may have fewer than
    `limit`, or none, and still a `next_cursor`.
    """
    given = call.given
    wanted = query.refund_filter(given, call.tenant)
    limit, cursor = _LIMIT.read(given), CURSOR.read(given)
    page = call.container.store.search_refunds(wanted, limit=limit, cursor=cursor)

    if page.next_cursor is not None:
        following = urlencode({**given, "cursor": page.next_cursor})
        call.resp.append_link(f"/v1/refunds?{following}", "next")
    return RefundListDocument.of(page)


@ROUTES.get(
    "/v1/refunds/export",
    "exportRefunds",
    READ,
    takes=(*REFUND_FILTERS, FORMAT),
    answers={
        200: {
            **answer("The file.", None),
            "content": {
                media_type.partition(";")[0]: {"schema": text("A line per refund.")}
                for media_type in MEDIA_TYPES.values()
            },
        }
    },
)
def _export(call: Call) -> None:
    """
    Export refunds.

    All refunds of the caller's tenant that the parameters describe, newest first,
    as one file. It is sent while it is read, so a file that ends without the last
    chunk is not complete. A tenant receives one at a time: another is 429.

    No cell of the CSV is a formula: one that begins like a formula has `'` before
    it. A line of `jsonl` is a refund with its tenant.
    """
    wanted = query.refund_filter(call.given, call.tenant)
    format_ = FORMAT.read(call.given)
    call.parts.exports.send(call.resp, wanted, format_, caller=call.tenant)


@ROUTES.post(
    "/v1/refunds/batch",
    "createRefunds",
    WRITE,
    body=body("BatchRequest", examples.BATCH_REQUEST),
    answers={
        200: answer(
            "One result for each member. 200 does not say that one was accepted.",
            schema("BatchResults"),
            examples.BATCH_RESULTS,
        )
    },
    problems=problem_sets.BODY | {"tenant-blocked"},
)
def _create_many(call: Call) -> BatchResultsDocument:
    """
    Create many refunds.

    Each member is accepted or refused by itself, and has its own result. The answer
    does not wait for the workers. The body has at most 1 MiB.

    A member that is no object, or whose `idempotency_key` is missing, malformed or
    used twice, makes the answer 400, and no member is accepted.
    """
    return submit_batch(call, strict_json.parse(read_bytes(call.req, MAX_BATCH)))


@ROUTES.post(
    "/v1/refunds/preview",
    "previewRefund",
    READ,
    body=body("RefundRequest", examples.REFUND_REQUEST),
    answers={
        200: answer(
            "The outcome, also of a refund that the policy would refuse.",
            schema("Preview"),
            examples.PREVIEW,
        )
    },
    problems=problem_sets.BODY | {"screening-unavailable"},
)
def _preview(call: Call) -> PreviewDocument:
    """
    Preview a refund.

    What would happen with the same request to `POST /v1/refunds`. It stores and
    reserves nothing, and counts against no spending limit. It promises nothing
    either: a moment later, another refund may have used a limit.

    A malformed value is a 400 of the preview itself. What the policy refuses, such
    as an unknown token, is 200 with `outcome` `refuse` and the `problem`.

    The signature of a request, rates and `max_open_refunds` are not looked at.
    """
    request = read_refund(read_object(call.req))
    with call.parts.waiting.asking_nodes(call.tenant):
        preview = call.parts.previewer.preview(call.tenant, request)

    problem = None
    if preview.refusal is not None:
        problem = problem_of(preview.refusal).document(request_id(call.req))
    return PreviewDocument.of(preview, problem=problem)


@ROUTES.get(
    "/v1/refunds/{refund_id}",
    "getRefund",
    READ,
    headers=[_PREFER],
    answers={
        200: answer(
            "The refund.", _REFUND, examples.REFUND, headers=("Preference-Applied",)
        )
    },
    problems={"not-found"},
)
def _get(call: Call, refund_id: str) -> RefundDocument:
    """
    Get a refund.

    A refund of the caller's tenant. `Prefer: wait=10` waits until it is final.
    """
    preferred = read_preference(call.req)
    refund = _find(call, refund_id)
    if preferred.seconds is not None:
        with _admit(call, preferred) as may_wait:
            if may_wait:
                refund = _wait(call, refund, preferred.seconds)
    return RefundDocument.of(refund)


@ROUTES.post(
    "/v1/refunds/{refund_id}/cancel",
    "cancelRefund",
    WRITE,
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
    problems={"not-found", "not-cancellable", "tenant-blocked"},
)
def _cancel(call: Call, refund_id: str) -> RefundDocument:
    """
    Cancel a refund.

    Cancels a refund that has no nonce yet: one that is `awaiting-approval` or
    `queued`. Any later status is 409 `not-cancellable`, and the refund goes on. The
    request can be repeated, and has no body. `reference` and key stay in use.
    """
    refunds, name = call.container.refunds, _require_id(refund_id)
    refund = refunds.request_cancellation(call.tenant, name, call.actor)
    with call.parts.waiting.admit(call.tenant) as may_wait:
        if may_wait:
            refund = refunds.await_cancellation(refund)

    require_cancellable(refund)
    if refund.status in UNRESERVED:
        call.resp.status = falcon.HTTP_ACCEPTED
    return RefundDocument.of(refund)


@ROUTES.get(
    "/v1/refunds/{refund_id}/explain",
    "explainRefund",
    READ,
    answers={
        200: answer("The explanation.", schema("Explanation"), examples.EXPLANATION)
    },
    problems={"not-found"},
)
def _explain(call: Call, refund_id: str) -> ExplanationDocument:
    """
    Explain a refund.

    Why the refund has its status, and what happens next. It changes nothing, asks
    the refund's nodes once, and answers also while they are down. What begins with
    `To do:` is for the operator.
    """
    refund = _find(call, refund_id)
    with call.parts.waiting.asking_nodes(call.tenant):
        explanation = call.container.explainer.explain(refund, for_tenant=True)
    return ExplanationDocument.of(explanation)


@ROUTES.get(
    "/v1/tokens",
    "listTokens",
    READ,
    tag="Tokens",
    answers={200: answer("The tokens.", schema("TokenList"), examples.TOKENS)},
)
def _tokens(call: Call) -> TokenListDocument:
    """
    List tokens.

    What the caller's tenant may have refunded. The amounts are the stricter ones of
    the service's and the tenant's.
    """
    limits = call.container.tenants.limits(call.tenant)
    tokens = [*list_allowances(call.container.networks, limits)]
    return TokenListDocument.of(None, tokens=tokens)


@ROUTES.get(
    "/v1/networks",
    "listNetworks",
    READ,
    tag="Tokens",
    answers={200: answer("The networks.", schema("NetworkList"), examples.NETWORKS)},
)
def _networks(call: Call) -> NetworkListDocument:
    """
    List networks.

    Where refunds are paid.
    """
    limits = call.container.tenants.limits(call.tenant)
    found = call.container.networks.items()
    networks = [network_document(*each, limits) for each in found]
    return NetworkListDocument(networks=networks)


def _admit(call: Call, preferred: Preference) -> AbstractContextManager[bool]:
    """
    Count the request while it waits as *preferred*; the value is whether it may.

    Too many waiting requests would leave no thread for others.  This one is then
    answered at once, without ``Preference-Applied``, as RFC 7240 allows.
    """
    if preferred.is_async:
        return nullcontext(False)
    if preferred.seconds is None:
        return call.parts.waiting.admit(call.tenant)
    return call.parts.waiting.admit_long(call.tenant)


def _wait(call: Call, refund: Refund, seconds: float) -> Refund:
    """Return *refund* when it is final, or after *seconds*."""
    call.resp.set_header("Preference-Applied", f"wait={seconds:.0f}")
    return call.container.refunds.wait(refund, seconds)


def _find(call: Call, refund_id: str) -> Refund:
    """Return a refund of the caller's tenant; NotFoundError for one of another."""
    return call.container.refunds.get(call.tenant, _require_id(refund_id))


def _require_id(refund_id: str) -> str:
    if not is_refund_id(refund_id):
        raise NotFoundError("there is no such refund")
    return refund_id
