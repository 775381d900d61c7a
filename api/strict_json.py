"""
JSON without its surprises: one meaning per text, and no room to hide in.

RFC 8259 leaves open what two readers may read differently.  This reader takes
the I-JSON subset (RFC 7493) and refuses more: UTF-8 without a byte order mark,
an object at the top, unique keys, at most 16 levels, and no number with a
fraction or an exponent, since money is never a float.  Bodies and the two JSON
parts of a token pass through here.
"""

import json
import re
from collections import Counter
from typing import Any

from signer.errors import InvalidInputError


MAX_DEPTH = 16

# Strings are matched whole so that brackets inside them do not count, and an
# unterminated one is matched as well: retrying behind it would cost n² steps.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

# C0, DEL, C1, the two Unicode line breaks, and halves of a surrogate pair.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_NO_INTEGER = object()


def loads(body: bytes) -> dict[str, Any]:
    """
    Return the object that *body* holds.

    Values are ``dict``, ``list``, ``str``, ``int``, ``bool`` and ``None``.

    Raises:
        InvalidInputError: With the path of the offending field, if it has one.
    """
    text = _decode(body)
    _check_depth(text)
    try:
        value = _DECODER.decode(text)
    except ValueError:
        # Raised anew: json's message quotes from the input.
        raise InvalidInputError("not a JSON document (RFC 8259)") from None
    if not isinstance(value, dict):
        raise InvalidInputError("the top level must be an object")
    _check_value(value, None)
    return value


def plain_name(name: str) -> str | None:
    """Return *name* if it is harmless to show, since the caller chose it."""
    return name if _PLAIN_NAME.fullmatch(name) else None


def _decode(body: bytes) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError("not UTF-8") from None
    if text.startswith("\ufeff"):
        raise InvalidInputError("begins with a byte order mark (RFC 8259, 8.1)")
    return text


def _check_depth(text: str) -> None:
    # Before parsing: the parser recurses, so a text of brackets could otherwise
    # exhaust the stack of the thread.
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = match.group()
        depth += (mark in "[{") - (mark in "]}")
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
    raise InvalidInputError("a key appears twice", field=plain_name(twice))


def _check_value(value: object, field: str | None) -> None:
    if value is _NO_INTEGER:
        raise InvalidInputError(
            "numbers must be integers; amounts are decimal strings", field=field
        )
    if isinstance(value, str) and _FORBIDDEN.search(value):
        raise InvalidInputError(
            "holds control characters or half a surrogate pair", field=field
        )
    if isinstance(value, list):
        for item in value:
            _check_value(item, field)
    if isinstance(value, dict):
        for key, item in value.items():
            _check_value(key, field)
            _check_value(item, plain_name(f"{field}.{key}" if field else key))


# Fractions, exponents, NaN and Infinity become a marker instead of an error,
# because the parser does not know the name of the field that it is in.
_DECODER = json.JSONDecoder(
    parse_float=lambda _: _NO_INTEGER,
    parse_constant=lambda _: _NO_INTEGER,
    object_pairs_hook=_unique,
)
