"""Verifies webhooks: https://www.standardwebhooks.com."""

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook

from hotwallet_client.errors import HotWalletError
from hotwallet_client.models import Event


_TOLERANCE = 300
_PUBLIC_KEY = "whpk_"
_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


class WebhookError(HotWalletError):
    """The message is not one of the service, or not a new one: answer 400."""


def verify_webhook(
    body: bytes,
    headers: Mapping[str, str],
    keys: Sequence[str],
    *,
    clock: Callable[[], float] = time.time,
) -> Event:
    """
    Return the event of a webhook that one of *keys* has signed.

    *body* is the body as it was received.  *keys* are public keys (``whpk_...``, see
    ``HotWallet.webhook_keys``), secrets (``whsec_...``), or both.  *clock* is the time
    in seconds, which may differ by five minutes; the reference library checks secrets
    by the clock of the host.

    Raises:
        WebhookError: No key has signed it, it is older than five minutes, or it is no
            event.
        ValueError: One of *keys* is none.
    """
    named = {name.lower(): value for name, value in headers.items()}
    given = {name: named.get(name, "") for name in _HEADERS}
    verifiers = [_verifier(key) for key in keys]
    if not all(given.values()):
        raise WebhookError("a header of Standard Webhooks is missing")
    _check_time(given["webhook-timestamp"], clock())
    if not any(verify(body, given) for verify in verifiers):
        raise WebhookError("no key has signed this message")
    try:
        event = json.loads(body)
    except ValueError as e:
        raise WebhookError("the body is not JSON") from e
    if not isinstance(event, dict) or event.get("id") != given["webhook-id"]:
        raise WebhookError("the body is not the event that the header names")
    return cast("Event", event)


_Verifier = Callable[[bytes, dict[str, str]], bool]


def _check_time(text: str, now: float) -> None:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(2**40))
    if not is_number or abs(int(text) - now) > _TOLERANCE:
        raise WebhookError("webhook-timestamp is more than five minutes from now")


def _verifier(key: str) -> _Verifier:
    """Return the verifier of *key*; ``ValueError``, which does not quote it."""
    try:
        if key.startswith(_PUBLIC_KEY):
            return _ed25519(base64.b64decode(key.removeprefix(_PUBLIC_KEY)))
        if key.startswith("whsec_"):
            return _hmac(Webhook(key))
    except Exception:  # noqa: BLE001, S110  The library's own errors differ.
        pass
    raise ValueError("a key must be whpk_ or whsec_, and Base64")


def _hmac(webhook: Webhook) -> _Verifier:
    def verify(body: bytes, headers: dict[str, str]) -> bool:
        try:
            webhook.verify(body, headers, json_parse=False)
        except Exception:  # noqa: BLE001  It raises various errors for bad headers.
            return False
        return True

    return verify


def _ed25519(raw: bytes) -> _Verifier:
    key = Ed25519PublicKey.from_public_bytes(raw)

    def verify(body: bytes, headers: dict[str, str]) -> bool:
        id_, seconds, signatures = (headers[name] for name in _HEADERS)
        message = f"{id_}.{seconds}.".encode() + body
        for each in signatures.split():
            version, _, text = each.partition(",")
            if version == "v1a" and _is_valid(key, text, message):
                return True
        return False

    return verify


def _is_valid(key: Ed25519PublicKey, text: str, message: bytes) -> bool:
    try:
        key.verify(base64.b64decode(text, validate=True), message)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True
