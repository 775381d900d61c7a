"""Measures how deeply JSON is nested, before a parser recurses into it."""

import re


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
