"""
The request for a refund, as a gateway sends it.

The API reads the request that it accepts, and a worker reads the same bytes again if
the tenant signed them.
"""

from collections.abc import Mapping
from inspect import cleandoc
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from signer.errors import InvalidInputError
from signer.model.refund import RefundRequest
from signer.strict_json import plain_name


KEY_PATTERN = "^[!-~]{1,255}$"

# Visible ASCII only, so that names that look equal are equal.
_Name = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern="^[!-~]+$")
]
# ``policy`` validates networks, tokens, addresses and amounts.
_Recipient = Annotated[
    _Name,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^0x[0-9a-fA-F]{40}$",
            "format": "eip55-address",
        }
    ),
]
_Amount = Annotated[
    _Name,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(0|[1-9][0-9]{0,77})(\.[0-9]{1,36})?$",
            "maxLength": 128,
            "format": "token-amount",
        }
    ),
]
# ``strict_json`` refuses control characters.
_Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$",
        }
    ),
]

IdempotencyKey = Annotated[
    str,
    Field(
        pattern=KEY_PATTERN,
        description="As the header `Idempotency-Key` of a single request.",
    ),
]

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a field of a refund",
    "string_type": "must be a string",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "may hold visible ASCII characters only",
}


class RequestBody(BaseModel):
    """A JSON object that a caller sends; other members are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


Body = TypeVar("Body", bound=RequestBody)


def _says(description: str, **keywords: Any) -> Any:
    return Field(description=cleandoc(description), **keywords)


class RefundRequestBody(RequestBody):
    """A request for a refund."""

    payment_session_id: _Name = _says("The payment to refund.")
    network: _Name = _says("The name of a network: see `GET /v1/networks`.")
    token: _Name = _says("The name of a token: see `GET /v1/tokens`.")
    recipient: _Recipient = _says(
        """
        Who is paid: an address with its EIP-55 checksum. Not the zero address, a
        precompiled contract, a token or the wallet itself.
        """
    )
    amount: _Amount = _says(
        """
        Whole tokens as a decimal string, such as `"12.50"`: no sign, exponent or
        separator, and at most as many decimals as the token has.
        """
    )
    reason: _Text | None = _says(
        "Null or left out: none. Text for people, without control characters.",
        default=None,
    )
    reference: _Name | None = _says(
        """
        The caller's name of this refund, which is paid once. Null or left out: the
        value of `payment_session_id`. A second refund of one payment needs its own,
        also after a cancelled, refused or failed one.
        """,
        default=None,
    )


def read_refund(payload: dict[str, Any]) -> RefundRequest:
    """
    Return the refund that *payload* requests.

    Raises:
        InvalidInputError: A field is missing, unknown or malformed; ``field`` is the
            first such field.
    """
    body = read_body(RefundRequestBody, payload)
    fields = body.model_dump()
    return RefundRequest(
        **fields | {"reference": body.reference or body.payment_session_id}
    )


def read_body(
    model: type[Body], payload: dict[str, Any], messages: Mapping[str, str] = _MESSAGES
) -> Body:
    """
    Return *payload* as *model*; *messages* are those of pydantic's types of errors.

    Raises:
        InvalidInputError: A field is missing, unknown or malformed; ``field`` is the
            first such field.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as e:
        (first, *_) = e.errors(include_input=False, include_url=False)
        message = messages.get(first["type"], "is malformed")
        name = plain_name(str(first["loc"][0]))
        raise InvalidInputError(message, field=name) from None
