"""The headers of requests for refunds: ``Prefer``, ``Idempotency-Key``, signatures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from falcon import Request

from signer.errors import InvalidInputError
from signer.model.acceptance import SignedRequest
from signer.refunds.request_body import KEY_PATTERN
from signer.refunds.service import MAX_WAIT_SECONDS


# A comma in a quoted string is a part of it.  Without its second quote, a string ends
# with the header.
_MEMBER = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*(?:"|\\?$))+', re.DOTALL)
_SECONDS = re.compile(r"[0-9]+")
_IDEMPOTENCY_KEY = re.compile(KEY_PATTERN)


@dataclass(frozen=True, slots=True)
class Preference:
    """
    How long the client wants to wait for its refund (RFC 7240).

    ``seconds`` is N of ``wait=N``, up to 20: wait that long until the refund is final.
    ``is_async`` is ``respond-async``: do not wait.
    """

    seconds: float | None
    is_async: bool


def read_preference(req: Request) -> Preference:
    """Return what *req* prefers."""
    preferences = _read_preferences(req)
    wait = preferences.get("wait", "")
    if _SECONDS.fullmatch(wait):
        # A time to wait is the more precise preference.
        return Preference(min(float(wait), MAX_WAIT_SECONDS), is_async=False)
    return Preference(None, is_async=preferences.get("respond-async") == "")


def _read_preferences(req: Request) -> Mapping[str, str]:
    """
    Return the values of *req*'s preferences by name, in lower case; "" without one.

    The first of two with one name counts (RFC 7240, section 2).  Parameters, which
    follow a semicolon, are left out.
    """
    found: dict[str, str] = {}
    for member in _MEMBER.findall(req.get_header("Prefer") or ""):
        name, _, value = member.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def is_idempotency_key(key: object) -> bool:
    """Return whether *key* has 1 to 255 visible ASCII characters."""
    return isinstance(key, str) and _IDEMPOTENCY_KEY.fullmatch(key) is not None


def read_idempotency_key(req: Request) -> str:
    """Return the key; InvalidInputError if it is missing or malformed."""
    key = req.get_header("Idempotency-Key") or ""
    if not is_idempotency_key(key):
        raise InvalidInputError(
            "the header Idempotency-Key must hold 1 to 255 visible ASCII characters",
            field="Idempotency-Key",
        )
    return key


def read_signed_request(req: Request, body: bytes) -> SignedRequest:
    """Return *body* with the headers of its signature; a missing header is empty."""
    return SignedRequest(
        body=body,
        content_digest=req.get_header("Content-Digest") or "",
        signature_input=req.get_header("Signature-Input") or "",
        signature=req.get_header("Signature") or "",
    )
