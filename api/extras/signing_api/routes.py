"""The routes of the role ``sign``.  ``signer.signing`` decides what they do."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from falcon import Request, Response

from api.container import Container
from api.extras.signing_api.endpoint import JSONRPC, ROLE, SCOPE, requester_of
from api.extras.signing_api.methods import Methods
from api.extras.signing_api.openapi import MessageSignatureDocument
from api.extras.signing_api.shares import SignatureShares
from api.http import query
from api.http.body import MAX_BATCH, read_bytes
from api.http.concurrency import WaitingRequests
from api.http.middleware import AuthorizationMiddleware, Resource
from api.views.requests import MessageSigningRequestBody, TypedDataSigningRequestBody
from signer import strict_json
from signer.config.tenants import TenantRegistry
from signer.crypto.messages import PersonalMessage
from signer.crypto.transaction_json import read_address
from signer.crypto.typed_data import TypedData
from signer.errors import InvalidInputError, RecoveryError, SigningError
from signer.model.key import SERVING
from signer.policy.facts import Path
from signer.refunds.eth_send_transaction import TransactionSender
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


_MAX_DEPTH = 64

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a member of this request",
}


class Signing(Resource):
    """
    A route that signs what *sign* reads from a body of *model*.

    A request is not stored: to repeat it makes another signature of the same.
    """

    required_role = ROLE
    required_scope: ClassVar = SCOPE
    is_for_tenants = True

    def __init__(
        self,
        model: type[MessageSigningRequestBody | TypedDataSigningRequestBody],
        sign: Callable[[SigningService, Any, Requester], MessageSignature],
        open_signing: Callable[[], SigningService],
        tenants: TenantRegistry,
    ) -> None:
        self._model = model
        self._sign = sign
        self._open_signing = open_signing
        self._tenants = tenants

    def on_post(self, req: Request, resp: Response) -> None:
        query.parameters(req)
        given = strict_json.decode(read_bytes(req, MAX_BATCH), _MAX_DEPTH)
        if not isinstance(given, dict):
            raise InvalidInputError("the top level must be an object")
        body = read_body(self._model, given, _MESSAGES)
        requester = requester_of(req, Path.REST, self._tenants)
        try:
            signed = self._sign(self._open_signing(), body, requester)
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
