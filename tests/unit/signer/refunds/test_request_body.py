"""The body of a request for a refund: its fields, and what is refused."""

from dataclasses import fields
from typing import Any

import pytest

from signer.errors import InvalidInputError
from signer.model.refund import RefundRequest
from signer.refunds.request_body import RefundRequestBody, read_refund
from tests.support.refunds import CUSTOMER


BODY: dict[str, Any] = {
    "payment_session_id": "ps_1",
    "network": "local",
    "token": "TUSD",
    "recipient": CUSTOMER,
    "amount": "12.50",
}


def test_every_field_is_read() -> None:
    """The values stay as they were sent: ``policy`` judges them."""
    body = BODY | {"reason": "Ware beschädigt 🙁", "reference": "part-1"}

    assert read_refund(body) == RefundRequest(
        payment_session_id="ps_1",
        reference="part-1",
        network="local",
        token="TUSD",
        recipient=CUSTOMER,
        amount="12.50",
        reason="Ware beschädigt 🙁",
    )


@pytest.mark.parametrize("changes", [{}, {"reference": None}])
def test_the_payment_session_is_the_default_reference(changes: dict[str, Any]) -> None:
    """So a session is refunded once, unless the tenant names parts."""
    assert read_refund(BODY | changes).reference == "ps_1"


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"fee": "1"}, "fee", "is not a field of a refund"),
        ({"amount": 12.5}, "amount", "must be a string"),
        ({"amount": 12}, "amount", "must be a string"),
        ({"amount": True}, "amount", "must be a string"),
        ({"token": None}, "token", "must be a string"),
        ({"recipient": [CUSTOMER]}, "recipient", "must be a string"),
        ({"payment_session_id": ""}, "payment_session_id", "is empty"),
        ({"payment_session_id": "p" * 129}, "payment_session_id", "is too long"),
        ({"reason": ""}, "reason", "is empty"),
        ({"reason": "r" * 257}, "reason", "is too long"),
        ({"reference": "part 1"}, "reference", "visible ASCII"),
        ({"reference": "ps_1\n"}, "reference", "visible ASCII"),
        (
            {"payment_session_id": "\N{CYRILLIC SMALL LETTER ER}s_1"},
            "payment_session_id",
            "visible ASCII",
        ),
        ({"reason": "\ud800"}, "reason", "is malformed"),
    ],
)
def test_a_malformed_field_is_refused(
    changes: dict[str, Any], field: str, message: str
) -> None:
    """With its name and what is wrong, and without its value."""
    with pytest.raises(InvalidInputError, match=message) as raised:
        read_refund(BODY | changes)

    assert raised.value.field == field


@pytest.mark.parametrize("name", BODY)
def test_a_missing_field_is_named(name: str) -> None:
    """All fields but the reason and the reference are required."""
    body = {field: value for field, value in BODY.items() if field != name}

    with pytest.raises(InvalidInputError, match="is required") as raised:
        read_refund(body)
    assert raised.value.field == name


@pytest.mark.parametrize("name", ["<b>", "\x1b[2J", "", "a" * 1000])
def test_the_name_of_an_unknown_field_is_not_repeated_if_it_is_hostile(
    name: str,
) -> None:
    """It would be printed in logs and terminals."""
    with pytest.raises(InvalidInputError) as raised:
        read_refund(BODY | {name: "1"})

    assert raised.value.field is None


def test_a_gateway_may_send_every_field_but_calldata() -> None:
    """What a client of JSON-RPC calls is no field of the gateway's request."""
    of_core = {each.name for each in fields(RefundRequest)}

    assert RefundRequestBody.model_fields.keys() == of_core - {"calldata"}
