"""The routes under ``/v1/refunds``.  ``signer.refunds`` decides what they do."""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlencode

import falcon
from falcon import Request, Response

from api.http import query
from api.http.body import read_bytes
from api.http.concurrency import WaitingRequests
from api.http.exports import Exports
from api.http.middleware import Resource
from api.http.preferences import read_preferences
from api.request_context import actor, tenant
from api.views.explanations import explanation_document
from api.views.refunds import RefundListDocument, refund_document
from signer import strict_json
from signer.errors import InvalidInputError, NotFoundError
from signer.model.refund import UNRESERVED, Refund, is_refund_id
from signer.model.signed_request import SignedRequest
from signer.ports.refund_reports import RefundReports
from signer.refunds.explain import Explainer
from signer.refunds.request_body import KEY_PATTERN, read_refund
from signer.refunds.service import (
    MAX_WAIT_SECONDS,
    RefundService,
    require_cancellable,
)


_SECONDS = re.compile(r"[0-9]+")
_IDEMPOTENCY_KEY = re.compile(KEY_PATTERN)


@dataclass(frozen=True, slots=True)
class _Preference:
    """
    How long the client wants to wait for its refund (RFC 7240).

    ``seconds`` is N of ``wait=N``: wait that long until the refund is final.
    ``is_async`` is ``respond-async``: do not wait.
    """

    seconds: float | None
    is_async: bool


class _MerchantResource(Resource):
    required_role = "merchant"
    is_for_tenants = True
    required_scope: ClassVar = {"POST": "refunds:write", "GET": "refunds:read"}

    def __init__(self, refunds: RefundService) -> None:
        self._refunds = refunds


class _WaitingResource(_MerchantResource):
    def __init__(self, refunds: RefundService, waiting: WaitingRequests) -> None:
        super().__init__(refunds)
        self._waiting = waiting

    def _admit(
        self, preferred: _Preference, req: Request
    ) -> AbstractContextManager[bool]:
        """
        Count the request while it waits as *preferred*; the value is whether it may.

        Too many waiting requests would leave no thread for others.  This one is then
        answered at once, without ``Preference-Applied``, as RFC 7240 allows.
        """
        if preferred.is_async:
            return nullcontext(False)
        if preferred.seconds is None:
            return self._waiting.admit(tenant(req))
        return self._waiting.admit_long(tenant(req))

    def _wait(self, refund: Refund, seconds: float, resp: Response) -> Refund:
        """Return *refund* when it is final, or after *seconds*."""
        resp.set_header("Preference-Applied", f"wait={seconds:.0f}")
        return self._refunds.wait(refund, seconds)


class Refunds(_WaitingResource):
    """
    ``/v1/refunds``: accepts refunds, and lists those of the caller's tenant.

    ``Idempotency-Key`` makes it safe to repeat a request: the refund is paid once.
    """

    def on_post(self, req: Request, resp: Response) -> None:
        """Accept a refund (201), or show the one that has the key (200)."""
        query.parameters(req)
        key = _idempotency_key(req)
        preferred = _preference(req)
        body = read_bytes(req)
        request = read_refund(strict_json.loads(body))
        with self._admit(preferred, req) as may_wait:
            accepted = self._refunds.submit(
                tenant=tenant(req),
                idempotency_key=key,
                request=request,
                actor=actor(req),
                signed=_signed_request(req, body),
                trace=req.get_header("traceparent"),
            )
            refund = accepted.refund
            if may_wait and preferred.seconds is not None:
                refund = self._wait(refund, preferred.seconds, resp)
            elif may_wait:
                refund = self._refunds.await_broadcast(refund)

        if preferred.is_async:
            resp.set_header("Preference-Applied", "respond-async")
        resp.status = falcon.HTTP_CREATED if accepted.created else falcon.HTTP_OK
        if not accepted.created:
            resp.set_header("Idempotent-Replayed", "true")
        resp.location = f"/v1/refunds/{refund.id}"
        resp.media = refund_document(refund)

    def __init__(
        self, refunds: RefundService, waiting: WaitingRequests, search: RefundReports
    ) -> None:
        super().__init__(refunds, waiting)
        self._search = search

    def on_get(self, req: Request, resp: Response) -> None:
        """List the tenant's refunds, newest first, a page at a time."""
        given = query.parameters(req, *query.REFUND_FILTERS, "limit", "cursor")
        page = self._search.search_refunds(
            query.refund_filter(given, tenant(req)),
            limit=query.limit(given),
            cursor=query.cursor(given),
        )

        if page.next_cursor is not None:
            following = urlencode(given | {"cursor": page.next_cursor})
            resp.append_link(f"/v1/refunds?{following}", "next")
        resp.media = RefundListDocument.of(page).dump()


class RefundExport(Resource):
    """``/v1/refunds/export``: a file with refunds of the caller's tenant."""

    required_role = "merchant"
    required_scope = "refunds:read"
    is_for_tenants = True

    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    def on_get(self, req: Request, resp: Response) -> None:
        """Send all of the tenant's refunds that the parameters describe."""
        given = query.parameters(req, *query.REFUND_FILTERS, "format")
        wanted = query.refund_filter(given, tenant(req))
        self._exports.send(resp, wanted, query.export_format(given), caller=tenant(req))


class RefundResource(_WaitingResource):
    """``/v1/refunds/{refund_id}``: one refund of the caller's tenant."""

    def on_get(self, req: Request, resp: Response, refund_id: str) -> None:
        """Show the refund; another tenant's refund answers 404."""
        query.parameters(req)
        preferred = _preference(req)
        refund = self._refunds.get(tenant(req), _require_id(refund_id))
        if preferred.seconds is not None:
            with self._admit(preferred, req) as may_wait:
                if may_wait:
                    refund = self._wait(refund, preferred.seconds, resp)

        resp.media = refund_document(refund)


class Cancellation(_WaitingResource):
    """``/v1/refunds/{refund_id}/cancel``: cancels a refund without a nonce."""

    takes_body = False

    def on_post(self, req: Request, resp: Response, refund_id: str) -> None:
        """
        Cancel the refund, unless it has a nonce; safe to repeat.

        202 means that a worker still has to cancel it.
        """
        query.parameters(req)
        refund = self._refunds.request_cancellation(
            tenant(req), _require_id(refund_id), actor(req)
        )
        with self._waiting.admit(tenant(req)) as may_wait:
            if may_wait:
                refund = self._refunds.await_cancellation(refund)

        require_cancellable(refund)
        if refund.status in UNRESERVED:
            resp.status = falcon.HTTP_ACCEPTED
        resp.media = refund_document(refund)


class RefundExplanation(_WaitingResource):
    """``/v1/refunds/{refund_id}/explain``: why the refund has its status."""

    def __init__(
        self, refunds: RefundService, explainer: Explainer, waiting: WaitingRequests
    ) -> None:
        super().__init__(refunds, waiting)
        self._explainer = explainer

    def on_get(self, req: Request, resp: Response, refund_id: str) -> None:
        """Explain the refund, as far as the ledger and the nodes answer."""
        query.parameters(req)
        refund = self._refunds.get(tenant(req), _require_id(refund_id))

        with self._waiting.asking_nodes(tenant(req)):
            explanation = self._explainer.explain(refund, for_tenant=True)
        resp.media = explanation_document(explanation)


def is_idempotency_key(key: object) -> bool:
    """Return whether *key* has 1 to 255 visible ASCII characters."""
    return isinstance(key, str) and _IDEMPOTENCY_KEY.fullmatch(key) is not None


def preferred_wait(req: Request) -> float | None:
    """Return N of ``Prefer: wait=N``, up to 20 seconds; None if it is not there."""
    return _preference(req).seconds


def _require_id(refund_id: str) -> str:
    if not is_refund_id(refund_id):
        raise NotFoundError("there is no such refund")
    return refund_id


def _idempotency_key(req: Request) -> str:
    key = req.get_header("Idempotency-Key") or ""
    if not is_idempotency_key(key):
        raise InvalidInputError(
            "the header Idempotency-Key must hold 1 to 255 visible ASCII characters",
            field="Idempotency-Key",
        )
    return key


def _signed_request(req: Request, body: bytes) -> SignedRequest:
    """Return *body* with the headers of its signature; a missing header is empty."""
    return SignedRequest(
        body=body,
        content_digest=req.get_header("Content-Digest") or "",
        signature_input=req.get_header("Signature-Input") or "",
        signature=req.get_header("Signature") or "",
    )


def _preference(req: Request) -> _Preference:
    """Return the preferences of *req*; ``wait=N`` counts up to 20 seconds."""
    preferences = read_preferences(req)
    wait = preferences.get("wait", "")
    if _SECONDS.fullmatch(wait):
        # A time to wait is the more precise preference.
        return _Preference(min(float(wait), MAX_WAIT_SECONDS), is_async=False)
    return _Preference(None, is_async=preferences.get("respond-async") == "")
