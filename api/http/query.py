"""
Reads query strings; unknown and repeated parameters are refused.

A ``Parameter`` is declared once: it reads the value, and is in the OpenAPI document.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from falcon import Request

from api.http.openapi.elements import Element, integer, one_of, text
from api.views.document import REFUND_ID_PATTERN
from api.views.refund_files import MEDIA_TYPES
from signer.amounts import is_amount
from signer.errors import InvalidInputError
from signer.model.event import DeliveryState
from signer.model.refund import Status, is_refund_id
from signer.ports.refund_reports import RefundFilter
from signer.strict_json import plain_name


MAX_LIMIT = 200
DEFAULT_LIMIT = 50

_VALUE = re.compile(r"[!-~]{1,128}")
_LIMIT = re.compile(r"[1-9][0-9]{0,2}")
_FIRST_YEAR, _LAST_YEAR = 1970, 9998

Given = Mapping[str, str]
"""The parameters of a request, as ``parameters`` returns them."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter: *parse* raises ``ValueError``, which says what it must be."""

    name: str
    schema: Element
    parse: Callable[[str], Any] = str
    default: Any = None

    def read(self, given: Given) -> Any:
        """Return the value; InvalidInputError if it is malformed."""
        if self.name not in given:
            return self.default
        try:
            return self.parse(given[self.name])
        except ValueError as e:
            raise InvalidInputError(str(e), field=self.name) from None


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


def moment(given: Given, name: str) -> datetime | None:
    """
    Return the time in *name*, in UTC unless it names a zone; a date is its midnight.

    Raises:
        InvalidInputError: It is no time.
    """
    return Parameter(name, {}, _parse_moment).read(given)  # type: ignore[no-any-return]


def _parse_moment(text: str) -> datetime:
    found = None
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
    if found is None or not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise ValueError(
            "must be a time or a date in UTC: 2026-01-31T12:00:00Z, 2026-01-31"
        )
    return found.replace(tzinfo=found.tzinfo or UTC)


def _parse_amount(text: str) -> Decimal:
    if not is_amount(text):
        raise ValueError('must be plain decimal digits, such as "12.50"')
    return Decimal(text)


def _parse_limit(text: str) -> int:
    if not _LIMIT.fullmatch(text) or int(text) > MAX_LIMIT:
        raise ValueError(f"must be from 1 to {MAX_LIMIT}")
    return int(text)


def _matching(
    convert: Callable[[str], Any], is_valid: Callable[[str], object], problem: str
) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if not is_valid(text):
            raise ValueError(problem)
        return convert(text)

    return parse


def _choice(values: Iterable[str], convert: Callable[[str], Any] = str) -> Any:
    known = [*values]
    return _matching(convert, known.__contains__, f"must be one of {', '.join(known)}")


def _enumerated(name: str, values: type[StrEnum], about: str) -> Parameter:
    return Parameter(name, one_of(values, about), _choice(values, values))


def limit_of(things: str) -> Parameter:
    """Return the parameter ``limit`` of a list of *things*: 50, up to 200."""
    schema = integer(
        f"{things} per page.", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT
    )
    return Parameter("limit", schema, _parse_limit, DEFAULT_LIMIT)


def counted(
    name: str, member: str, digits: int, default: int | None = None
) -> Parameter:
    """Return a parameter that is the *member* of a page, of up to *digits*."""
    pattern = f"[0-9]{{1,{digits}}}"
    start = {} if default is None else {"default": str(default)}
    schema = text(f"The `{member}` of a page.", pattern=f"^{pattern}$", **start)
    is_valid = re.compile(pattern).fullmatch
    parse = _matching(int, is_valid, f"must be the {member} of a page")
    return Parameter(name, schema, parse, default)


CURSOR = Parameter(
    "cursor",
    text("The `next_cursor` of the previous page.", pattern=REFUND_ID_PATTERN),
    _matching(str, is_refund_id, "must be the next_cursor of a page"),
)
PLACE = counted("cursor", "nextCursor", 9, 0)

FORMAT = Parameter(
    "format",
    one_of(MEDIA_TYPES, "The format, `csv` by default."),
    _choice(MEDIA_TYPES),
    next(iter(MEDIA_TYPES)),
)

_NAME = "^[!-~]{1,128}$"
_TIME = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2}))?$"
_AMOUNT = "^(0|[1-9][0-9]{0,77})([.][0-9]{1,36})?$"

REFUND_FILTERS = (
    Parameter("payment_session_id", text("Only those of one payment.", pattern=_NAME)),
    _enumerated("status", Status, "Only those with one status."),
    Parameter("network", text("Only those on one network.", pattern=_NAME)),
    Parameter(
        "created_from",
        text(
            "Only those created at this time or later, a date or RFC 3339.",
            pattern=_TIME,
        ),
        _parse_moment,
    ),
    Parameter(
        "created_before",
        text("Only those created before this time.", pattern=_TIME),
        _parse_moment,
    ),
    Parameter(
        "min_amount",
        text("Only those of at least so many whole tokens.", pattern=_AMOUNT),
        _parse_amount,
    ),
    Parameter(
        "max_amount",
        text("Only those of at most so many whole tokens.", pattern=_AMOUNT),
        _parse_amount,
    ),
)
"""The parameters that ``refund_filter`` reads."""

FILTER_NAMES = tuple(each.name for each in REFUND_FILTERS)

DELIVERY_FILTERS = (
    Parameter("tenant", text("Only those of one tenant.", pattern=_NAME)),
    _enumerated("state", DeliveryState, "Only those in one state."),
    Parameter(
        "refund",
        text("Only those of one refund.", pattern=REFUND_ID_PATTERN),
        _matching(str, is_refund_id, "must be the id of a refund"),
    ),
)


def refund_filter(
    given: Given, tenant: str | None, recipient: str | None = None
) -> RefundFilter:
    """
    Return what *given* restricts the refunds of *tenant* to; None: of all tenants.

    Raises:
        InvalidInputError: A parameter is malformed, or a range is empty.
    """
    values = {each.name: each.read(given) for each in REFUND_FILTERS}
    start, end = values.pop("created_from"), values.pop("created_before")
    if start is not None and end is not None and start >= end:
        raise InvalidInputError("must be after created_from", field="created_before")
    least, most = values["min_amount"], values["max_amount"]
    if least is not None and most is not None and least > most:
        raise InvalidInputError("must be at least min_amount", field="max_amount")
    return RefundFilter(
        tenant=tenant,
        recipient=recipient,
        accepted_from=start,
        accepted_before=end,
        **values,
    )
