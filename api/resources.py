"""The nouns of the API.  What they do is decided in ``signer``."""

import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlencode

import falcon

from api import query
from api.body import read_object
from api.context import principal, request_id
from api.documents import page_document, read_refund, refund_document
from api.middleware import Resource
from api.services import Readiness
from signer.errors import InvalidInputError, NotFoundError
from signer.refunds.service import RefundService


_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
_REFUND_ID = re.compile(r"[A-Za-z0-9_]{1,64}")


class Refunds(Resource):
    """
    ``/v1/refunds``: pays refunds, and lists the caller's own.

    The caller names each refund, so asking twice pays once.
    """

    required_role = "merchant"

    def __init__(self, refunds: RefundService) -> None:
        self._refunds = refunds

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Accept a refund (201), or repeat the answer to the same one (200)."""
        query.parameters(req)
        key = _idempotency_key(req)
        refund, created = self._refunds.submit(
            client=principal(req).sub,
            idempotency_key=key,
            request=read_refund(read_object(req)),
            request_id=request_id(req),
        )

        resp.status = HTTPStatus.CREATED if created else HTTPStatus.OK
        if not created:
            resp.set_header("Idempotent-Replayed", "true")
        resp.location = f"/v1/refunds/{refund.id}"
        resp.media = refund_document(refund)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the caller's refunds, newest first, a page at a time."""
        given = query.parameters(req, "payment_session_id", "status", "limit", "cursor")
        page = self._refunds.list(
            principal(req).sub,
            payment_session_id=given.get("payment_session_id"),
            status=query.status(given),
            limit=query.limit(given),
            cursor=given.get("cursor"),
        )

        if page.next_cursor is not None:
            following = urlencode(given | {"cursor": page.next_cursor})
            resp.append_link(f"/v1/refunds?{following}", "next")
        resp.media = page_document(page)


class Refund(Resource):
    """``/v1/refunds/{refund_id}``: one refund of the caller."""

    required_role = "merchant"

    def __init__(self, refunds: RefundService) -> None:
        self._refunds = refunds

    def on_get(
        self, req: falcon.Request, resp: falcon.Response, refund_id: str
    ) -> None:
        """Show the refund; somebody else's looks like none at all."""
        query.parameters(req)
        if not _REFUND_ID.fullmatch(refund_id):
            raise NotFoundError("there is no such refund")

        resp.media = refund_document(self._refunds.get(principal(req).sub, refund_id))


class Liveness(Resource):
    """``/healthz``: the process answers.  It says nothing about anything else."""

    required_role = None

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Say so."""
        resp.media = {"status": "ok"}

    on_head = on_get


class ReadinessProbe(Resource):
    """``/readyz``: whether a balancer should send requests here."""

    required_role = None

    def __init__(self, readiness: Callable[[], Readiness]) -> None:
        self._readiness = readiness

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Tell what each dependency answered: ``ok``, or an error's code."""
        readiness = self._readiness()

        if not readiness.ready:
            resp.status = HTTPStatus.SERVICE_UNAVAILABLE
        resp.media = {
            "status": "ready" if readiness.ready else "unavailable",
            "checks": dict(readiness.checks),
        }

    on_head = on_get


def _idempotency_key(req: falcon.Request) -> str:
    key = req.get_header("Idempotency-Key") or ""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInputError(
            "the header Idempotency-Key must hold 1 to 255 visible ASCII characters",
            field="Idempotency-Key",
        )
    return key
