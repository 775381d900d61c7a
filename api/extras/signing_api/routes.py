"""The routes of the role ``sign``.  ``signer.signing`` decides what they do."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from falcon import Request, Response

from api.container import Container
from api.extras.signing_api.endpoint import JSONRPC, ROLE, SCOPE, requester_of
from api.extras.signing_api.methods import Methods, Reads
from api.extras.signing_api.openapi import MessageSignatureDocument
from api.http import query
from api.http.body import MAX_BATCH, read_bytes
from api.http.concurrency import WaitingRequests
from api.http.middleware import AuthorizationMiddleware, Resource
from api.views.requests import (
    MessageSigningRequestBody,
    TypedDataSigningRequestBody,
)
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

Signing = TypeVar("Signing", MessageSigningRequestBody, TypedDataSigningRequestBody)


class _SigningResource(Resource):
    """A request is not stored: to repeat it makes another signature of the same."""

    required_role = ROLE
    required_scope: ClassVar = SCOPE
    is_for_tenants = True

    def __init__(
        self, open_signing: Callable[[], SigningService], tenants: TenantRegistry
    ) -> None:
        self._open_signing = open_signing
        self._tenants = tenants

    @property
    def _signing(self) -> SigningService:
        return self._open_signing()

    def _requester(self, req: Request) -> Requester:
        return requester_of(req, Path.REST, self._tenants)


class MessageSigning(_SigningResource):
    """``/v1/sign/message``: signs a message (EIP-191)."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Return the signature."""
        body, sender = _read(req, MessageSigningRequestBody)
        message = PersonalMessage.parse(body.message)
        service, requester = self._signing, self._requester(req)
        resp.media = _signature(
            lambda: service.sign_personal_message(message, requester, sender)
        )


class TypedDataSigning(_SigningResource):
    """``/v1/sign/typed-data``: signs a document (EIP-712)."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Return the signature."""
        body, sender = _read(req, TypedDataSigningRequestBody)
        document = TypedData.parse(body.typed_data)
        service, requester = self._signing, self._requester(req)
        resp.media = _signature(
            lambda: service.sign_typed_data(document, requester, sender)
        )


def _read(req: Request, model: type[Signing]) -> tuple[Signing, str | None]:
    """Return the body, and the address that is to sign."""
    query.parameters(req)
    given = strict_json.decode(read_bytes(req, MAX_BATCH), _MAX_DEPTH)
    if not isinstance(given, dict):
        raise InvalidInputError("the top level must be an object")
    body = read_body(model, given, _MESSAGES)
    address = body.address
    return body, None if address is None else read_address(address, "address")


def _signature(make: Callable[[], MessageSignature]) -> dict[str, Any]:
    try:
        return MessageSignatureDocument.of(make()).dump()
    except RecoveryError as e:
        raise SigningError("the device made no valid signature") from e


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
    app.add_route("/v1/sign/message", MessageSigning(open_signing, tenants))
    app.add_route("/v1/sign/typed-data", TypedDataSigning(open_signing, tenants))
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
    )


def open_transaction_sender(container: Container) -> TransactionSender:
    """Return what accepts the transactions of clients, as refunds."""
    return TransactionSender(
        container.refunds,
        container.store,
        container.ledger_clock,
        container.node_proxies,
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
            Reads(
                container.node_proxies[name],
                partial(sender.next_nonce, name, network.chain_id),
            ),
        )
        for name, network in container.networks.items()
    }
