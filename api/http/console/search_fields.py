"""The fields of searches, and the link to the next page of what was found."""

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from signer.errors import InvalidInputError


_MOST_DIGITS = 15


def read_moment(given: Mapping[str, str], name: str) -> datetime | None:
    """
    Return the time in the field *name*, in UTC unless it names a zone.

    Raises:
        InvalidInputError: It is no time.
    """
    text = given.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(
            "must be a time: 2026-01-31T12:00", field=name
        ) from None
    return moment.replace(tzinfo=moment.tzinfo or UTC)


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
