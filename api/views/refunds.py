"""Refunds as JSON: parses requests and formats answers."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from api.strict_json import plain_name
from signer.amounts import format_units
from signer.errors import InvalidInputError
from signer.model.refund import Refund, RefundRequest


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
    # The core validates networks, tokens, addresses and amounts.
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


def refund_document(refund: Refund) -> dict[str, Any]:
    """Return *refund* as JSON for its tenant; amounts in whole tokens."""
    failure = None
    # A refund that is being replaced by a no-op has a reason but has not failed yet.
    if refund.failure_code is not None and refund.status.is_final:
        failure = {"code": refund.failure_code, "detail": refund.failure_detail}
    return {
        **fields(refund, "id", "status", "reference", "payment_session_id"),
        **fields(refund, "network", "chain_id", "token", "token_address", "recipient"),
        "amount": format_units(refund.amount, refund.decimals),
        **fields(refund, "reason", "sender", "nonce", "tx_hash", "block_number"),
        "failure": failure,
        **fields(refund, "created_at", "updated_at", "cancel_requested_at"),
    }


def fields(source: object, *names: str) -> dict[str, Any]:
    """Return the attributes *names* of *source*, with times as ``timestamp``."""
    values = {name: getattr(source, name) for name in names}
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def timestamp(moment: datetime) -> str:
    # RFC 3339; always UTC and always of one length, so that text sorts by time.
    utc = moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")
