"""
Reads requests: ``Prefer``, ``Idempotency-Key`` and signatures in headers, and bodies.

Bodies have at most 16 KiB, and 1 MiB where a route allows it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import falcon
from falcon import Request

from api.views.requests import MAX_BODY
from signer import strict_json
from signer.errors import InvalidInputError
from signer.model.acceptance import SignedRequest
from signer.refunds.request_body import KEY_PATTERN
from signer.refunds.service import MAX_WAIT_SECONDS


MAX_BATCH = 1024 * 1024
"""The largest body of a batch, in bytes: about 2 KiB for each of 500 refunds."""


class SlowClientError(Exception):
    """A late request; no ``OSError``, which gunicorn ignores as a broken connection."""


def read_object(req: Request) -> dict[str, Any]:
    """
    Return the JSON object that *req* carries.

    Raises:
        falcon.HTTPError, InvalidInputError: As ``read_bytes``.
        InvalidInputError: ``strict_json`` refuses the body.
    """
    return strict_json.loads(read_bytes(req))


def read_optional_object(req: Request) -> dict[str, Any]:
    """
    Return the JSON object that *req* carries; an empty one if it has no body.

    Raises as ``read_object``.
    """
    body = read_bytes(req, media_type=None)
    if body in {b"", b"{}"}:
        return {}
    _check_type(req, falcon.MEDIA_JSON)
    return strict_json.loads(body)


def require_no_body(req: Request) -> None:
    """
    Require that *req* has no body, or an empty JSON object: nothing would read it.

    Raises:
        falcon.HTTPError: As ``read_bytes``.
        InvalidInputError: It has one.
    """
    if read_bytes(req, media_type=None) not in {b"", b"{}"}:
        raise InvalidInputError(
            "this request takes no body; leave it out", field="body"
        )


def read_bytes(
    req: Request, at_most: int = MAX_BODY, media_type: str | None = falcon.MEDIA_JSON
) -> bytes:
    """
    Return the body of *req*, which must be of *media_type*; None allows every type.

    Raises:
        falcon.HTTPUnsupportedMediaType: It is of another type, or compressed.
        falcon.HTTPContentTooLarge: The body has more than *at_most* bytes.
        falcon.HTTPError: 408: the body did not arrive in time.
        InvalidInputError: The body is incomplete.
    """
    _check_type(req, media_type)
    length = req.content_length
    if length is not None and length > at_most:
        raise falcon.HTTPContentTooLarge
    body = _read(req, at_most + 1)
    if len(body) > at_most:
        raise falcon.HTTPContentTooLarge
    if length is not None and len(body) < length:
        raise InvalidInputError("the body ended early")
    return body


def _check_type(req: Request, expected: str | None) -> None:
    # A small compressed body can expand to a huge one, so none is accepted.
    if req.get_header("Content-Encoding") is not None:
        raise falcon.HTTPUnsupportedMediaType
    if expected is None:
        return
    media_type, parameters = falcon.parse_header(req.content_type or "")
    charset = parameters.pop("charset", "utf-8")
    if (media_type.lower(), charset.lower()) != (expected, "utf-8"):
        raise falcon.HTTPUnsupportedMediaType


def _read(req: Request, size: int) -> bytes:
    # A chunked body has no length.  Read it to the end of the stream only if the server
    # promises that there is one; the read would never return otherwise.
    terminated = req.env.get("wsgi.input_terminated", False)
    stream = req.stream if terminated else req.bounded_stream
    try:
        return bytes(stream.read(size))
    except SlowClientError as e:
        raise falcon.HTTPError(falcon.HTTP_REQUEST_TIMEOUT) from e
    except Exception as e:
        # Broken chunks and closed connections: WSGI does not define their classes.
        raise InvalidInputError("the body could not be read") from e


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
