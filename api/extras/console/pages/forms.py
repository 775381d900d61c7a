"""Reads the fields of forms and of searches."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import falcon
from falcon import Request

from api.http import query
from api.http.body import read_bytes
from signer.errors import InvalidInputError, PermissionDeniedError


FORM_TOKEN = "form"  # noqa: S105  The name of a field.

_MOST_FIELDS = 8
_OWN_SITE = frozenset({"same-origin", "none"})


def read_form(req: Request, *names: str) -> Mapping[str, str]:
    """
    Return the fields of the form that *req* carries: exactly *names*.

    Raises:
        falcon.HTTPError, InvalidInputError: As ``read_bytes``.
        InvalidInputError: The body is no form, or has other fields.
        PermissionDeniedError: The browser says that another site sent the form.
    """
    query.parameters(req)
    body = read_bytes(req, media_type=falcon.MEDIA_URLENCODED)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise InvalidInputError("is no form", field="body") from None
    if sorted(name for name, _ in pairs) != sorted(names):
        raise InvalidInputError(
            "has other fields than the form: open the page again", field="body"
        )
    # Browsers send this header to HTTPS and to this host.  ``Origin`` would be "null",
    # because the pages forbid referrers.
    if req.get_header("Sec-Fetch-Site", default="none") not in _OWN_SITE:
        raise PermissionDeniedError("another site sent the form")
    return dict(pairs)


_MOST_DIGITS = 15


def read_sequence(given: Mapping[str, str]) -> int | None:
    """
    Return the sequence number before which a page begins.

    Raises:
        InvalidInputError: It is no such number.
    """
    text = given.get("before")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidInputError("must be a sequence number", field="before")
    return int(text)


def next_page(
    given: Mapping[str, str], name: str, start: str | int | None
) -> str | None:
    """Return the query of the page that begins at *start*; None if there is none."""
    return None if start is None else urlencode({**given, name: start})
