"""Reads query strings; unknown and repeated parameters are refused."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

from falcon import Request

from api.views.refund_files import MEDIA_TYPES
from signer.amounts import is_amount
from signer.errors import InvalidInputError
from signer.model.refund import Status, is_refund_id
from signer.ports.refund_reports import RefundFilter
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


def cursor(given: Mapping[str, str]) -> str | None:
    """Return the ``next_cursor`` to continue from; InvalidInputError if it is none."""
    text = given.get("cursor")
    if text is not None and not is_refund_id(text):
        raise InvalidInputError("must be the next_cursor of a page", field="cursor")
    return text


def place(given: Mapping[str, str]) -> int:
    """Return the ``nextCursor`` of a list that counts; InvalidInputError if none."""
    text = given.get("cursor", "0")
    if not _PLACE.fullmatch(text):
        raise InvalidInputError("must be the nextCursor of a page", field="cursor")
    return int(text)


def limit(given: Mapping[str, str]) -> int:
    """Return the maximum length of a page; InvalidInputError above ``MAX_LIMIT``."""
    text = given.get("limit", str(DEFAULT_LIMIT))
    if not _LIMIT.fullmatch(text) or int(text) > MAX_LIMIT:
        raise InvalidInputError(f"must be from 1 to {MAX_LIMIT}", field="limit")
    return int(text)


def status(given: Mapping[str, str]) -> Status | None:
    """Return the status to filter by; InvalidInputError if there is no such status."""
    text = given.get("status")
    if text is None:
        return None
    if text not in set(Status):
        raise InvalidInputError(f"must be one of {', '.join(Status)}", field="status")
    return Status(text)


REFUND_FILTERS = (
    *("payment_session_id", "status", "network", "created_from", "created_before"),
    *("min_amount", "max_amount"),
)
"""The parameters that ``refund_filter`` reads."""

_FIRST_YEAR, _LAST_YEAR = 1970, 9998


def refund_filter(
    given: Mapping[str, str], tenant: str | None, recipient: str | None = None
) -> RefundFilter:
    """
    Return what *given* restricts the refunds of *tenant* to; None: of all tenants.

    Raises:
        InvalidInputError: A parameter is malformed, or a range is empty.
    """
    wanted = RefundFilter(
        tenant=tenant,
        status=status(given),
        recipient=recipient,
        payment_session_id=given.get("payment_session_id"),
        network=given.get("network"),
        accepted_from=moment(given, "created_from"),
        accepted_before=moment(given, "created_before"),
        min_amount=_amount(given, "min_amount"),
        max_amount=_amount(given, "max_amount"),
    )
    start, end = wanted.accepted_from, wanted.accepted_before
    if start is not None and end is not None and start >= end:
        raise InvalidInputError("must be after created_from", field="created_before")
    least, most = wanted.min_amount, wanted.max_amount
    if least is not None and most is not None and least > most:
        raise InvalidInputError("must be at least min_amount", field="max_amount")
    return wanted


def export_format(given: Mapping[str, str]) -> str:
    """Return the format of a file; InvalidInputError if there is no such format."""
    known = list(MEDIA_TYPES)
    text = given.get("format", known[0])
    if text not in known:
        raise InvalidInputError(f"must be one of {', '.join(known)}", field="format")
    return text


def moment(given: Mapping[str, str], name: str) -> datetime | None:
    """
    Return the time in *name*, in UTC unless it names a zone; a date is its midnight.

    Raises:
        InvalidInputError: It is no time.
    """
    text = given.get(name)
    if text is None:
        return None
    found = None
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
    if found is None or not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise InvalidInputError(
            "must be a time or a date in UTC: 2026-01-31T12:00:00Z, 2026-01-31",
            field=name,
        )
    return found.replace(tzinfo=found.tzinfo or UTC)


def _amount(given: Mapping[str, str], name: str) -> Decimal | None:
    text = given.get(name)
    if text is None:
        return None
    if not is_amount(text):
        raise InvalidInputError(
            'must be plain decimal digits, such as "12.50"', field=name
        )
    return Decimal(text)
