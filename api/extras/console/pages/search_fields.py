"""The fields of searches, and the link to the next page of what was found."""

from collections.abc import Mapping
from urllib.parse import urlencode

from signer.errors import InvalidInputError


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
