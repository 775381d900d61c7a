"""The routes under ``/v1/sign``.  ``signer.signing`` decides what they do."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from falcon import Request, Response

from api.http import query
from api.http.body import MAX_BATCH, read_bytes
from api.http.middleware import Resource
from api.request_context import actor, principal, tenant
from api.views.requests import (
    MessageSigningRequestBody,
    TypedDataSigningRequestBody,
)
from api.views.signing import MessageSignatureDocument
from signer import strict_json
from signer.config.tenants import TenantRegistry
from signer.crypto.messages import PersonalMessage
from signer.crypto.transaction_json import read_address
from signer.crypto.typed_data import TypedData
from signer.errors import InvalidInputError, RecoveryError, SigningError
from signer.policy.facts import Caller, Path
from signer.refunds.request_body import read_body
from signer.signing.requester import Requester
from signer.signing.service import SigningService
from signer.signing.signed_message import MessageSignature


ROLE = "signer"
SCOPE = "sign"

_PROCESS = "sign"
_MAX_DEPTH = 64

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a member of this request",
}

Signing = TypeVar("Signing", MessageSigningRequestBody, TypedDataSigningRequestBody)


def requester_of(req: Request, path: Path, tenants: TenantRegistry) -> Requester:
    """Return the caller of *req*, who asks on *path*."""
    name = tenant(req)
    caller = Caller(path, name, principal(req).sub, ROLE, _PROCESS)
    return Requester(caller, actor(req), tenants.limits(name))


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
