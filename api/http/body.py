"""Reads request bodies of at most 16 KiB, and of 1 MiB where a route allows it."""

from typing import Any

import falcon
from falcon import Request

from api.views.requests import MAX_BODY
from signer import strict_json
from signer.errors import InvalidInputError


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
