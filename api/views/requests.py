"""What tenants and signers send, besides the request for one refund."""

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from api.views.document import Address, says
from signer.refunds.request_body import IdempotencyKey, RefundRequestBody, RequestBody


MAX_BODY = 16 * 1024
"""The largest body of a single request, in bytes."""

MAX_MEMBERS = 500
"""The most refunds of one batch."""

_Header = Annotated[str, Field(max_length=4096)]


class _Keyed(RequestBody):
    idempotency_key: IdempotencyKey


class BatchMemberBody(RefundRequestBody, _Keyed):
    """A member of a batch: a key, and the fields of a refund."""


class SignedBatchMemberBody(_Keyed):
    """A member of a batch of a tenant that signs its requests."""

    body: Annotated[
        str,
        Field(max_length=MAX_BODY, json_schema_extra={"minLength": 1}),
    ] = says("The text of the body of the single request.")
    content_digest: _Header = says("As the header `Content-Digest`.")
    signature_input: _Header = says("As the header `Signature-Input`.")
    signature: _Header = says("As the header `Signature`.")


class BatchRequestBody(RequestBody):
    """Requests for refunds, each with its own `idempotency_key`."""

    refunds: Annotated[
        list[BatchMemberBody | SignedBatchMemberBody],
        Field(min_length=1, max_length=MAX_MEMBERS),
    ] = says("Each is accepted or refused by itself.")


# The core reads it, and refuses it by the same name.
_Signer = Annotated[
    Any,
    Address.__metadata__[0],
    says(
        "Who is to sign; refused unless it is the address that signs here.",
        optional=True,
    ),
]


class MessageSigningRequestBody(RequestBody):
    """A message to sign (EIP-191, version 0x45)."""

    message: Annotated[Any, WithJsonSchema({"type": "string"})] = says(
        "Text; or bytes in hex, with 0x."
    )
    address: _Signer


class TypedDataSigningRequestBody(RequestBody):
    """A document to sign."""

    typed_data: Annotated[Any, WithJsonSchema({"type": ["object", "string"]})] = says(
        "A document of EIP-712 (`types`, `primaryType`, `domain`, `message`), or its"
        " JSON in a string."
    )
    address: _Signer
