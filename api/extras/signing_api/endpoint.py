"""The routes ``/rpc`` and ``/rpc/{network}``."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import falcon
import structlog
from falcon import Request, Response

from api.auth.authorization import AccessPolicy
from api.extras.signing_api.calls import (
    CHAIN_DISCONNECTED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    RESOURCE_UNAVAILABLE,
    Body,
    RPCCall,
    RPCError,
    error_of,
    read_body,
)
from api.extras.signing_api.methods import BROADCAST_SECONDS, Methods, RequestContext
from api.http import query
from api.http.body import MAX_BATCH, read_bytes
from api.http.concurrency import WaitingRequests
from api.http.headers import is_idempotency_key
from api.http.middleware import Resource
from api.request_context import actor, principal, request_id, tenant
from signer.config.tenants import TenantRegistry
from signer.errors import NotFoundError
from signer.policy.facts import Caller, Path
from signer.refunds.eth_send_transaction import is_derived_key
from signer.signing.service import Requester


ROLE = "signer"
SCOPE = "sign"
_PROCESS = "sign"

REQUEST_SECONDS = 20.0
"""After this time no further call of a batch is begun."""

_log = structlog.get_logger("api.extras.signing_api.endpoint")


class JSONRPC(Resource):
    """
    ``/rpc/{network}``, and ``/rpc`` of a service with one network.

    Errors of calls are answered 200, since clients hide the code of other statuses.
    """

    required_role = "signer"
    required_scope: ClassVar = "sign"
    is_for_tenants = True

    def __init__(
        self,
        open_methods: Callable[[], Mapping[str, Methods]],
        access: AccessPolicy,
        tenants: TenantRegistry,
        waiting: WaitingRequests,
    ) -> None:
        self._open_methods = open_methods
        self._access = access
        self._tenants = tenants
        self._waiting = waiting

    def on_post(self, req: Request, resp: Response, network: str | None = None) -> None:
        """Answer the calls of the body, in their order."""
        query.parameters(req)
        started = time.monotonic()
        # web3.py sends no Content-Type if its user sets a header.
        content = read_bytes(req, MAX_BATCH, media_type=None)
        try:
            methods = self._find(network)
            body = read_body(content)
            context = self._open_context(req, body, started)
        except RPCError as e:
            _write(resp, _failed(None, e, req))
            return
        answers = []
        for call in body.calls:
            answer = self._answer(req, call, methods, context)
            if answer is not None:
                answers.append(answer)
                # The request was counted for its first call.
                context = replace(context, is_counted=False)
        if not answers:
            resp.status = falcon.HTTP_NO_CONTENT
        else:
            _write(resp, f"[{','.join(answers)}]" if body.is_batch else answers[0])

    def _find(self, network: str | None) -> Methods:
        known = self._open_methods()
        if network is not None:
            if network not in known:
                raise NotFoundError("there is no such network")
            return known[network]
        if len(known) == 1:
            return next(iter(known.values()))
        raise RPCError(
            CHAIN_DISCONNECTED,
            "there are several networks: use /rpc/NETWORK, with one of"
            f" {', '.join(sorted(known))}",
        )

    def _open_context(self, req: Request, body: Body, started: float) -> RequestContext:
        name = tenant(req)
        return RequestContext(
            requester_of(req, Path.JSON_RPC, self._tenants),
            name,
            lambda: self._waiting.admit(name),
            lambda: self._waiting.asking_nodes(name),
            started + BROADCAST_SECONDS,
            started + REQUEST_SECONDS,
            _idempotency_key(req, body),
        )

    def _answer(
        self, req: Request, call: RPCCall, methods: Methods, context: RequestContext
    ) -> str | None:
        """Return the answer to *call*, or None to a notification."""
        if call.problem is not None:
            return _failed(call.id, call.problem, req)
        if call.is_notification:
            # Its caller could not learn what was signed, so it does nothing.
            return None
        try:
            result = self._call(req, call, methods, context)
        except Exception as e:  # noqa: BLE001  One call must not end the others.
            error = error_of(e)
            if error.code in {INTERNAL_ERROR, RESOURCE_UNAVAILABLE}:
                _log.error("call-failed", code=error.data.get("code"), exc_info=e)
            return _failed(call.id, error, req)
        return _answer(call.id, "result", result)

    def _call(
        self, req: Request, call: RPCCall, methods: Methods, context: RequestContext
    ) -> str:
        if not context.is_counted:
            self._access.count(principal(req), tenant(req))
        if time.monotonic() > context.ends_at:
            problem = "the batch took too long: send fewer calls"
            raise RPCError(RESOURCE_UNAVAILABLE, problem)
        return methods.call(call.method, call.params, context)


def _answer(call_id: str | int | None, name: str, encoded: str) -> str:
    # An id may have half a surrogate pair, which only ASCII can hold.
    return f'{{"jsonrpc": "2.0", "id": {json.dumps(call_id)}, "{name}": {encoded}}}'


def _write(resp: Response, text: str) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.text = text


def _failed(call_id: str | int | None, error: RPCError, req: Request) -> str:
    return _answer(call_id, "error", json.dumps(error.document(request_id(req))))


def _idempotency_key(req: Request, body: Body) -> str | None:
    key = req.get_header("Idempotency-Key")
    if key is None:
        return None
    if not is_idempotency_key(key) or is_derived_key(key):
        problem = (
            "Idempotency-Key must hold 1 to 255 visible ASCII characters, and not begin"
            " with rpc-"
        )
        raise RPCError(INVALID_REQUEST, problem)
    if len(body.calls) > 1:
        problem = "Idempotency-Key is for one call, and this is a batch"
        raise RPCError(INVALID_REQUEST, problem)
    return key


def requester_of(req: Request, path: Path, tenants: TenantRegistry) -> Requester:
    """Return the caller of *req*, who asks on *path*."""
    name = tenant(req)
    caller = Caller(path, name, principal(req).sub, ROLE, _PROCESS)
    return Requester(caller, actor(req), tenants.limits(name))
