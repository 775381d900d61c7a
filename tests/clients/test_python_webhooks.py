"""Webhooks that the service signs, as the Python client verifies them."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import cast

import pytest

from hotwallet_client import Event, WebhookError, verify_webhook
from signer.ports.clock import utc_now
from signer.webhooks.signatures import PrivateKey, Secret, SigningKey, sign


KEY, OTHER = PrivateKey(b"\x05" * 32), PrivateKey(b"\x06" * 32)
SECRET = Secret(b"\x07" * 32)
EVENT = cast(
    "Event",
    {"id": "evt_1", "type": "refund.confirmed", "data": {"amount": "12.50"}},
)
BODY = json.dumps(EVENT).encode()
PUBLIC = KEY.public.format()


def _headers(
    *keys: SigningKey, id_: str = "evt_1", body: bytes = BODY, seconds: float = 0
) -> Mapping[str, str]:
    return sign(keys, id_, utc_now() + timedelta(seconds=seconds), body)


@pytest.mark.parametrize(
    ("signers", "keys"),
    [
        ([KEY], [PUBLIC]),
        ([SECRET], [SECRET.format()]),
        ([KEY, SECRET], [SECRET.format()]),
        ([OTHER, KEY], [PUBLIC]),
        ([KEY], [OTHER.public.format(), SECRET.format(), PUBLIC]),
    ],
    ids=["key", "secret", "both", "a new key signs too", "a new key is known"],
)
def test_a_signed_event(signers: list[SigningKey], keys: list[str]) -> None:
    """By one key or several, of which one is known; names of headers have any case."""
    headers = {name.title(): text for name, text in _headers(*signers).items()}

    assert verify_webhook(BODY, headers, keys) == EVENT


@pytest.mark.parametrize(
    ("body", "headers", "keys"),
    [
        (BODY + b" ", _headers(KEY), [PUBLIC]),
        (BODY, _headers(OTHER), [PUBLIC]),
        (BODY, _headers(SECRET), [PUBLIC]),
        (BODY, _headers(KEY), [SECRET.format()]),
        (BODY, _headers(KEY), []),
        (BODY, _headers(KEY, id_="evt_2"), [PUBLIC]),
        (b"no JSON", _headers(KEY, body=b"no JSON"), [PUBLIC]),
        (b"[]", _headers(KEY, body=b"[]"), [PUBLIC]),
        (BODY, {**_headers(KEY), "webhook-signature": "v1a,%%% x v1a,AAAA"}, [PUBLIC]),
        (BODY, {**_headers(KEY), "webhook-signature": "x"}, [SECRET.format()]),
    ],
    ids=[
        "another body", "another key", "another scheme", "another scheme 2", "no key",
        "another id", "no JSON", "no object", "no Base64", "no version",
    ],
)  # fmt: skip
def test_another_message(
    body: bytes, headers: Mapping[str, str], keys: list[str]
) -> None:
    with pytest.raises(WebhookError):
        verify_webhook(body, headers, keys)


@pytest.mark.parametrize("seconds", [-310, 310])
def test_an_old_or_a_new_message(seconds: float) -> None:
    """A message that was recorded is of no use after five minutes."""
    headers = _headers(KEY, seconds=seconds)
    with pytest.raises(WebhookError, match="five minutes"):
        verify_webhook(BODY, headers, [PUBLIC])
    later = utc_now().timestamp() + seconds

    assert verify_webhook(BODY, headers, [PUBLIC], clock=lambda: later) == EVENT


@pytest.mark.parametrize(
    "name", ["webhook-id", "webhook-timestamp", "webhook-signature"]
)
def test_a_missing_header(name: str) -> None:
    headers = {**_headers(KEY)}
    del headers[name]
    with pytest.raises(WebhookError, match="missing"):
        verify_webhook(BODY, headers, [PUBLIC])


@pytest.mark.parametrize("key", ["", "whpk_", "whpk_AAAA", "whsec_", PUBLIC[5:]])
def test_a_key_that_is_none(key: str) -> None:
    """The error does not quote it: it may be a secret."""
    with pytest.raises(ValueError, match="must be whpk_ or whsec_") as raised:
        verify_webhook(BODY, _headers(KEY), [key])

    assert key == "" or key not in str(raised.value).replace("whpk_ or whsec_", "")
