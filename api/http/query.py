"""Reads query strings; unknown and repeated parameters are refused."""

import re

from falcon import Request

from signer.errors import InvalidInputError
from signer.model.refund import Status, is_refund_id
from signer.strict_json import plain_name


MAX_LIMIT = 200
DEFAULT_LIMIT = 50

_VALUE = re.compile(r"[!-~]{1,128}")
_PLACE = re.compile(r"[0-9]{1,9}")
_LIMIT = re.compile(r"[1-9][0-9]{0,2}")


def parameters(req: Request, *known: str, from_form: bool = False) -> dict[str, str]:
    """
    Return the query parameters of *req*, which must be among *known*.

    With *from_form* those without a value are left out: browsers send every field of a
    form, and people paste texts with spaces around them.

    Raises:
        InvalidInputError: A parameter is unknown, repeated or malformed.
    """
    given = {}
    for name, value in req.params.items():
        if name not in known:
            raise InvalidInputError(
                "unknown query parameter; this path takes"
                f" {', '.join(known) or 'none'}",
                field=plain_name(name),
            )
        if not isinstance(value, str):
            raise InvalidInputError("a parameter appears twice", field=name)
        if from_form and not (value := value.strip()):
            continue
        if not _VALUE.fullmatch(value):
            raise InvalidInputError("must be 1 to 128 visible characters", field=name)
        given[name] = value
    return given


def cursor(given: dict[str, str]) -> str | None:
    """Return the ``next_cursor`` to continue from; InvalidInputError if it is none."""
    text = given.get("cursor")
    if text is not None and not is_refund_id(text):
        raise InvalidInputError("must be the next_cursor of a page", field="cursor")
    return text


def place(given: dict[str, str]) -> int:
    """Return the ``nextCursor`` of a list that counts; InvalidInputError if none."""
    text = given.get("cursor", "0")
    if not _PLACE.fullmatch(text):
        raise InvalidInputError("must be the nextCursor of a page", field="cursor")
    return int(text)


def limit(given: dict[str, str]) -> int:
    """Return the maximum length of a page; InvalidInputError above ``MAX_LIMIT``."""
    text = given.get("limit", str(DEFAULT_LIMIT))
    if not _LIMIT.fullmatch(text) or int(text) > MAX_LIMIT:
        raise InvalidInputError(f"must be from 1 to {MAX_LIMIT}", field="limit")
    return int(text)


def status(given: dict[str, str]) -> Status | None:
    """Return the status to filter by; InvalidInputError if there is no such status."""
    text = given.get("status")
    if text is None:
        return None
    if text not in set(Status):
        raise InvalidInputError(f"must be one of {', '.join(Status)}", field="status")
    return Status(text)
