"""
Reads the body of a request for a refund.

The API reads the request that it accepts, and a worker reads the same bytes again if
the tenant signed them.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from signer.errors import InvalidInputError
from signer.model.refund import RefundRequest
from signer.strict_json import plain_name


# Visible ASCII only, so that names that look equal are equal.
_Name = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern="^[!-~]+$")
]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a field of a refund",
    "string_type": "must be a string",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "may hold visible ASCII characters only",
}


class _RefundBody(BaseModel):
    # ``policy`` validates networks, tokens, addresses and amounts.
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    payment_session_id: _Name
    network: _Name
    token: _Name
    recipient: _Name
    amount: _Name
    reason: _Text | None = None
    reference: _Name | None = None


def read_refund(payload: dict[str, Any]) -> RefundRequest:
    """
    Return the refund that *payload* requests.

    Raises:
        InvalidInputError: A field is missing, unknown or malformed; ``field`` is the
            first such field.
    """
    try:
        body = _RefundBody.model_validate(payload)
    except ValidationError as e:
        (first, *_) = e.errors(include_input=False, include_url=False)
        message = _MESSAGES.get(first["type"], "is malformed")
        name = plain_name(str(first["loc"][0]))
        raise InvalidInputError(message, field=name) from None
    fields = body.model_dump()
    return RefundRequest(
        **fields | {"reference": body.reference or body.payment_session_id}
    )
