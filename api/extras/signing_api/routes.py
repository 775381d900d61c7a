"""
The routes of the role ``sign``: JSON-RPC, messages, and a tenant's share of the device.

``signer.signing`` decides what they do.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

import falcon
import structlog
from falcon import Request, Response

from api.auth.authorization import AccessPolicy
from api.container import Container
from api.extras.signing_api.calls import (
    CHAIN_DISCONNECTED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    RESOURCE_UNAVAILABLE,
    Body,
    RPCCall,
    RPCError,
    error_of,
    read_calls,
)
from api.extras.signing_api.methods import BROADCAST_SECONDS, Methods, RequestContext
from api.extras.signing_api.openapi import MessageSignatureDocument
from api.http import query
from api.http.body import MAX_BATCH, is_idempotency_key, read_bytes
from api.http.concurrency import WaitingRequests
from api.http.middleware import AuthorizationMiddleware, Resource
from api.principal import tenant_of_thread
from api.request_context import actor, principal, request_id, tenant
from api.views.requests import MessageSigningRequestBody, TypedDataSigningRequestBody
from signer import strict_json
from signer.config.tenants import TenantRegistry
from signer.crypto.messages import PersonalMessage
from signer.crypto.transaction_json import read_address
from signer.crypto.typed_data import TypedData
from signer.errors import (
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    RecoveryError,
    SigningError,
)
from signer.model.key import SERVING
from signer.policy.facts import Caller, Path
from signer.refunds.eth_send_transaction import TransactionSender, is_derived_key
from signer.refunds.payment_policy import own_keys
from signer.refunds.request_body import read_body
from signer.signing.service import (
    KnownAddresses,
    MessageSignature,
    Requester,
    SigningService,
)


if TYPE_CHECKING:
    from api.http.app import App


_SECONDS = 10.0
"""How long a message waits for the other messages of its tenant."""


class SignatureShares:
    """
    Bounds how often tenants use the device; threads share an instance.

    If several tenants share the process, the messages of each are signed one after
    another.  The device serves calls in the order of their arrival, so a tenant waits
    for one call of each other tenant.
    """

    def __init__(self, count: Callable[[str], None]) -> None:
        """Call *count* with the tenant of each signature; it may raise an error."""
        self._count = count
        self._turns = dict[str, Lock]()

    @contextmanager
    def take_turn(self, caller: Caller) -> Iterator[None]:
        """
        Count a signature for *caller*, and wait for the turn to make it.

        Raises:
            RateLimitedError: There were too many signatures, or too many wait.
        """
        if caller.tenant is not None:
            self._count(caller.tenant)
        shared = tenant_of_thread.get()
        if shared is None:
            yield
            return
        turn = self._turns.setdefault(shared, Lock())
        if not turn.acquire(timeout=_SECONDS):
            problem = "too many messages of the tenant wait for the device; wait"
            raise RateLimitedError(problem, retry_after=1)
        try:
            yield
        finally:
            turn.release()


ROLE = "signer"
SCOPE = "sign"
_PROCESS = "sign"

REQUEST_SECONDS = 20.0
"""After this time no further call of a batch is begun."""

_log = structlog.get_logger("api.extras.signing_api.routes")


@dataclass(eq=False, repr=False)
class JSONRPC(Resource):
    """
    ``/rpc/{network}``, and ``/rpc`` of a service with one network.

    Errors of calls are answered 200, since clients hide the code of other statuses.
    """

    required_role = "signer"
    required_scope: ClassVar = "sign"
    is_for_tenants = True

    open_methods: Callable[[], Mapping[str, Methods]]
    access: AccessPolicy
    tenants: TenantRegistry
    waiting: WaitingRequests

    def on_post(self, req: Request, resp: Response, network: str | None = None) -> None:
        """Answer the calls of the body, in their order."""
        query.parameters(req)
        started = time.monotonic()
        # web3.py sends no Content-Type if its user sets a header.
        content = read_bytes(req, MAX_BATCH, media_type=None)
        try:
            methods = self._find(network)
            body = read_calls(content)
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
        known = self.open_methods()
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
            requester_of(req, Path.JSON_RPC, self.tenants),
            name,
            lambda: self.waiting.admit(name),
            lambda: self.waiting.asking_nodes(name),
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
            self.access.count(principal(req), tenant(req))
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


_MAX_DEPTH = 64

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a member of this request",
}


@dataclass(eq=False, repr=False)
class Signing(Resource):
    """
    A route whose *make* signs what it reads from a body of *model*.

    A request is not stored: to repeat it makes another signature of the same.
    """

    required_role = ROLE
    required_scope: ClassVar = SCOPE
    is_for_tenants = True

    model: type[MessageSigningRequestBody | TypedDataSigningRequestBody]
    make: Callable[[SigningService, Any, Requester], MessageSignature]
    open_signing: Callable[[], SigningService]
    tenants: TenantRegistry

    def on_post(self, req: Request, resp: Response) -> None:
        query.parameters(req)
        given = strict_json.decode(read_bytes(req, MAX_BATCH), _MAX_DEPTH)
        if not isinstance(given, dict):
            raise InvalidInputError("the top level must be an object")
        body = read_body(self.model, given, _MESSAGES)
        requester = requester_of(req, Path.REST, self.tenants)
        try:
            signed = self.make(self.open_signing(), body, requester)
        except RecoveryError as e:
            raise SigningError("the device made no valid signature") from e
        resp.media = MessageSignatureDocument.of(signed).dump()


def _sign_message(
    signing: SigningService, body: MessageSigningRequestBody, requester: Requester
) -> MessageSignature:
    sender = _read_sender(body.address)
    message = PersonalMessage.parse(body.message)
    return signing.sign_personal_message(message, requester, sender)


def _sign_typed_data(
    signing: SigningService, body: TypedDataSigningRequestBody, requester: Requester
) -> MessageSignature:
    sender = _read_sender(body.address)
    return signing.sign_typed_data(TypedData.parse(body.typed_data), requester, sender)


def _read_sender(address: object) -> str | None:
    return None if address is None else read_address(address, "address")


def add_signing(
    app: "App",
    container: Container,
    _: AuthorizationMiddleware,
    waiting: WaitingRequests,
) -> None:
    """Add ``/rpc`` and the routes under ``/v1/sign``."""
    tenants = container.tenants

    # Not before a request: it compiles the policy.
    open_signing = cache(lambda: _open_signing(container))
    message = Signing(MessageSigningRequestBody, _sign_message, open_signing, tenants)
    app.add_route("/v1/sign/message", message)
    document = Signing(
        TypedDataSigningRequestBody, _sign_typed_data, open_signing, tenants
    )
    app.add_route("/v1/sign/typed-data", document)
    open_methods = cache(lambda: _open_methods(container, open_signing()))
    endpoint = JSONRPC(open_methods, container.access, tenants, waiting)
    app.add_route("/rpc", endpoint)
    app.add_route("/rpc/{network}", endpoint)


def _open_signing(container: Container) -> SigningService:
    """Return what signs with the active key; it reserves no nonce."""
    return SigningService(
        lambda: container.ring.active().signer,
        container.policy,
        container.networks,
        container.ledger_clock,
        states=SERVING,
        known=KnownAddresses(
            own_keys=lambda: own_keys(container.ring.cached_keys()),
            denied=container.payment_policy.denied,
            # The active key signs, from which the service pays.
            is_service_wallet=lambda *_: True,
        ),
        blocks=container.store,
        take_turn=SignatureShares(container.access.count_signature).take_turn,
    )


def open_transaction_sender(container: Container) -> TransactionSender:
    """Return what accepts the transactions of clients, as refunds."""
    return TransactionSender(
        container.refunds,
        container.store,
        container.ledger_clock,
        container.node_proxies,
        container.networks,
    )


def _open_methods(
    container: Container, signing: SigningService
) -> Mapping[str, Methods]:
    """Return the methods of each network, by its name."""
    sender = open_transaction_sender(container)
    return {
        name: Methods(
            name,
            network,
            signing,
            sender,
            container.refunds,
            container.node_proxies[name],
        )
        for name, network in container.networks.items()
    }
