"""
A strict JSON parser for request bodies and tokens.

RFC 8259 allows documents that two parsers read differently.  This parser accepts the
I-JSON subset (RFC 7493) with more restrictions: UTF-8 without a byte order mark, an
object at the top level, unique keys, at most 16 levels, and no number with a fraction
or an exponent, since amounts of money are never floats.
"""

import json
import re
from codecs import BOM_UTF8
from collections import Counter
from math import isfinite
from typing import Any

from signer.errors import InvalidInputError


MAX_DEPTH = 16

# C0, DEL, C1, the two Unicode line breaks, and halves of a surrogate pair.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_NOT_AN_INTEGER = object()


def loads(body: bytes) -> dict[str, Any]:
    """
    Parse *body*, a JSON object.

    Values are ``dict``, ``list``, ``str``, ``int``, ``bool`` and ``None``.

    Raises:
        InvalidInputError: *body* is not such a document; ``field`` is the path of the
            invalid field, if there is one.
    """
    value = parse(body)
    check(value)
    return value


def parse(body: bytes) -> dict[str, Any]:
    """
    Parse *body* as ``loads`` does, without ``check`` of the values.

    Raises:
        InvalidInputError: *body* is not a JSON object, or a key appears twice.
    """
    if body.startswith(BOM_UTF8):
        raise InvalidInputError("begins with a byte order mark (RFC 8259, 8.1)")
    value = _decode(body, MAX_DEPTH, _DECODER)
    if not isinstance(value, dict):
        raise InvalidInputError("the top level must be an object")
    return value


def decode(body: bytes, max_depth: int) -> object:
    """
    Parse *body*, JSON of any kind for programs that send more than ``loads`` accepts.

    Integers are exact, at any length that Python converts.  Numbers with a fraction are
    floats, and texts may have any character: each reader decides what it accepts.

    Raises:
        InvalidInputError: *body* is not JSON in UTF-8, has more than *max_depth*
            levels, a key twice, or a number that is none: NaN, or one that overflows.
    """
    return _decode(body, max_depth, _EXACT_DECODER)


def _decode(body: bytes, max_depth: int, decoder: json.JSONDecoder) -> object:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError("not UTF-8") from None
    if is_deeper(text, max_depth):
        raise InvalidInputError(f"nested deeper than {max_depth} levels")
    try:
        return decoder.decode(text)
    except ValueError:
        # Not chained: the message of json quotes the input.
        raise InvalidInputError("not a JSON document (RFC 8259)") from None


def check(value: object, field: str | None = None) -> None:
    """
    Require that *value*, a part of what ``parse`` returned, is I-JSON.

    Raises:
        InvalidInputError: A number is not an integer, or a text has control characters;
            ``field``, the name of *value*, then has the path of the part.
    """
    if value is _NOT_AN_INTEGER:
        problem = "numbers must be integers; amounts are decimal strings"
        raise InvalidInputError(problem, field=field)
    if isinstance(value, str) and _FORBIDDEN.search(value):
        problem = "holds control characters or half a surrogate pair"
        raise InvalidInputError(problem, field=field)
    if isinstance(value, list):
        for item in value:
            check(item, field)
    if isinstance(value, dict):
        for key, item in value.items():
            check(key, field)
            check(item, plain_name(f"{field}.{key}" if field else key))


def plain_name(name: str) -> str | None:
    """Return *name*, which the caller chose, if it is safe to show; else None."""
    return name if _PLAIN_NAME.fullmatch(name) else None


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """
    Return the object of *pairs*, a hook for ``json.JSONDecoder``.

    Raises:
        InvalidInputError: A name appears twice.
    """
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
    raise InvalidInputError("a key appears twice", field=plain_name(repeated))


# Fractions, exponents, NaN and Infinity become a marker, not an error: the parser does
# not know the name of the field.
_DECODER = json.JSONDecoder(
    parse_float=lambda _: _NOT_AN_INTEGER,
    parse_constant=lambda _: _NOT_AN_INTEGER,
    object_pairs_hook=unique_members,
)


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise InvalidInputError("a number is too large")
    return number


def _refuse_constant(_: str) -> float:
    raise InvalidInputError("NaN and Infinity are no numbers (RFC 8259)")


_EXACT_DECODER = json.JSONDecoder(
    parse_float=_finite,
    parse_constant=_refuse_constant,
    object_pairs_hook=unique_members,
)


_OPENING, _QUOTES_AND_BRACKETS = b"[{", b'"[]{}'
_OTHERS = bytes(set(range(256)) - set(_QUOTES_AND_BRACKETS))
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"?')


def is_deeper(text: str, limit: int) -> bool:
    """
    Return whether the JSON *text* has more than *limit* levels.

    Parsers recurse, so many brackets could exhaust the thread's stack and end the
    process.
    """
    # Counting is fast, and enough for nearly all texts.
    if text.count("[") + text.count("{") <= limit:
        return False
    encoded = text.encode(errors="surrogatepass")
    # Brackets in strings do not count.  Outside of strings no parser reads on after a
    # backslash.
    marks = _ESCAPE.sub(b"", encoded).translate(None, _OTHERS)
    depth = 0
    for mark in _STRING.sub(b"", marks):
        depth += 1 if mark in _OPENING else -1
        if depth > limit:
            return True
    return False
