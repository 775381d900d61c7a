"""The routes of the role ``sign``.  ``signer.signing`` decides what they do."""

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from api.auth.authorization import Permission
from api.container import Container
from api.extras.signing_api.endpoint import JSONRPC, ROLE, SCOPE, requester_of
from api.extras.signing_api.methods import Methods
from api.http.body import MAX_BATCH, read_bytes
from api.http.concurrency import WaitingRequests
from api.http.middleware import AuthorizationMiddleware
from api.http.openapi import problem_sets
from api.http.openapi.elements import (
    Element,
    Operations,
    answer,
    body,
    parameter,
    schema,
    text,
)
from api.http.operations import Call, Routes
from api.views.document import Address, Document, Hash, says
from api.views.document import text as text_of
from api.views.requests import (
    MessageSigningRequestBody,
    TypedDataSigningRequestBody,
)
from signer import strict_json
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

Body = TypeVar("Body", MessageSigningRequestBody, TypedDataSigningRequestBody)

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a member of this request",
}


class MessageSignatureDocument(Document):
    """A signature."""

    address: Address = says("The address that signed.")
    digest: Hash = says("The 32 bytes that were signed.")
    signature: Annotated[str, text_of(pattern="^0x[0-9a-f]{130}$")] = says(
        "r, s and v; v is 27 or 28."
    )

    @classmethod
    def derive(cls, source: Any) -> Mapping[str, Any]:
        """Return the bytes in hex."""
        return {
            "digest": f"0x{source.digest.hex()}",
            "signature": f"0x{source.to_bytes().hex()}",
        }


_ABOUT = """
Signatures for other programs, by the key of the wallet: JSON-RPC for web3.py, ethers,
viem and cast, and two routes of HTTP. The policy decides about each of them. No
signature reserves a nonce: to pay, use `eth_sendTransaction` or `POST /v1/refunds`.
"""

_SIGNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"

_RPC_REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
_RPC_ANSWER = {"jsonrpc": "2.0", "id": 1, "result": "0x7a69"}

_MESSAGE_SIGNING = {"message": "hello", "address": _SIGNER}
_MESSAGE_SIGNATURE = {
    "address": _SIGNER,
    "digest": f"0x{'ab' * 32}",
    "signature": f"0x{'ab' * 64}1b",
}

_TYPED_DATA_SIGNING = {
    "typed_data": {
        "types": {
            "EIP712Domain": [{"name": "name", "type": "string"}],
            "Mail": [{"name": "contents", "type": "string"}],
        },
        "primaryType": "Mail",
        "domain": {"name": "Example"},
        "message": {"contents": "hello"},
    }
}

_PROBLEMS = (
    problem_sets.MERCHANT
    | problem_sets.BODY
    | problem_sets.SIGNATURE
    | {"tenant-blocked", "policy-violation", "limit-reached"}
)


_HEADERS = [
    parameter(
        "Idempotency-Key",
        "header",
        text(
            """
            Names the `eth_sendTransaction` of a request with one call, for ever.
            Without it, the same transfer within two minutes is the same one.
            """,
            pattern="^[!-~]{1,255}$",
        ),
        required=False,
    ),
]


_SIGNED = {
    200: answer("The signature.", schema("MessageSignature"), _MESSAGE_SIGNATURE)
}
_ANSWERED = {
    200: answer("An answer to each call.", schema("RPCAnswer"), _RPC_ANSWER),
    204: answer("There were only notifications.", None),
}

ROUTES = Routes(
    "Signing",
    Permission(frozenset({ROLE}), None, administrative=False, for_tenants=True),
    problem_sets.MERCHANT | problem_sets.BODY,
    names={"network": text("The name of a network.")},
)


@ROUTES.post(
    "/rpc",
    "callOnlyNetwork",
    SCOPE,
    headers=_HEADERS,
    body=body("RPCRequest", _RPC_REQUEST),
    answers=_ANSWERED,
)
def _call_only_network(call: Call) -> None:
    """
    JSON-RPC of the only network.

    Errors of calls are answered 200, with the codes of JSON-RPC. The
    `Content-Type` is ignored, and notifications are not executed.
    """
    _open_endpoint(call).answer(call.req, call.resp, None)


@ROUTES.post(
    "/rpc/{network}",
    "callNetwork",
    SCOPE,
    headers=_HEADERS,
    body=body("RPCRequest", _RPC_REQUEST),
    answers=_ANSWERED,
    problems={"not-found"},
)
def _call_network(call: Call, network: str) -> None:
    """
    JSON-RPC of a network.

    Errors of calls are answered 200, with the codes of JSON-RPC. The
    `Content-Type` is ignored, and notifications are not executed.
    """
    _open_endpoint(call).answer(call.req, call.resp, network)


# A request is not stored: to repeat it makes another signature of the same.
@ROUTES.post(
    "/v1/sign/message",
    "signMessage",
    SCOPE,
    body=body("MessageSigningRequest", _MESSAGE_SIGNING),
    answers=_SIGNED,
    problems=_PROBLEMS,
)
def _sign_message(call: Call) -> MessageSignatureDocument:
    """
    Sign a message.

    The answer is synchronous. Repeating the request is safe: it makes another
    signature over the same bytes.
    """
    given, sender = _read(call, MessageSigningRequestBody)
    message = PersonalMessage.parse(given.message)
    service, requester = _open_signing(call.container), _requester(call)
    return _sign(lambda: service.sign_personal_message(message, requester, sender))


@ROUTES.post(
    "/v1/sign/typed-data",
    "signTypedData",
    SCOPE,
    body=body("TypedDataSigningRequest", _TYPED_DATA_SIGNING),
    answers=_SIGNED,
    problems=_PROBLEMS,
)
def _sign_typed_data(call: Call) -> MessageSignatureDocument:
    """
    Sign typed data.

    The answer is synchronous. Repeating the request is safe: it makes another
    signature over the same bytes.
    """
    given, sender = _read(call, TypedDataSigningRequestBody)
    document = TypedData.parse(given.typed_data)
    service, requester = _open_signing(call.container), _requester(call)
    return _sign(lambda: service.sign_typed_data(document, requester, sender))


def _read(call: Call, model: type[Body]) -> tuple[Body, str | None]:
    """Return the body, and the address that is to sign."""
    given = strict_json.decode(read_bytes(call.req, MAX_BATCH), _MAX_DEPTH)
    if not isinstance(given, dict):
        raise InvalidInputError("the top level must be an object")
    read = read_body(model, given, _MESSAGES)
    address = read.address
    return read, None if address is None else read_address(address, "address")


def _requester(call: Call) -> Requester:
    return requester_of(call.req, Path.REST, call.container.tenants)


def _sign(make: Callable[[], MessageSignature]) -> MessageSignatureDocument:
    try:
        return MessageSignatureDocument.of(make())
    except RecoveryError as e:
        raise SigningError("the device made no valid signature") from e


def add_signing(
    app: "App",
    container: Container,
    _: AuthorizationMiddleware,
    waiting: WaitingRequests,
) -> None:
    """Add ``/rpc`` and the routes under ``/v1/sign``."""
    from api.http.documentation import Description
    from api.http.parts import Parts

    ROUTES.add_to(app, Parts(container, waiting, Description(app)))


def _open_endpoint(call: Call) -> JSONRPC:
    container = call.container
    methods = _open_methods(container)
    return JSONRPC(methods, container.access, container.tenants, call.parts.waiting)


# Not before a request: it compiles the policy.
@lru_cache(maxsize=1)
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


@lru_cache(maxsize=1)
def _open_methods(container: Container) -> Mapping[str, Methods]:
    """Return the methods of each network, by its name."""
    signing = _open_signing(container)
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


_SCHEMAS: dict[str, Element] = {
    "RPCRequest": {
        "description": (
            "A request of JSON-RPC 2.0, or a batch of up to 100. `docs/reference/"
            "json-rpc.md` has the methods and the codes."
        ),
        "type": ["object", "array", "string", "number", "boolean", "null"],
    },
    "RPCAnswer": {
        "description": "The answer, or those of a batch in the order of its calls.",
        "type": ["object", "array"],
    },
}

OPERATIONS = Operations(
    "Signing", _ABOUT, ROUTES.paths, _SCHEMAS, sys.modules[__name__]
)
