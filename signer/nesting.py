"""Measures how deeply JSON is nested, before a parser recurses into it."""

import re


# Strings are matched whole, so that brackets inside them do not count.  An unterminated
# string is matched as well; the search would take n² steps otherwise.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def is_deeper(text: str, limit: int) -> bool:
    """
    Return whether the JSON *text* has more than *limit* levels.

    Parsers recurse, so many brackets could exhaust the thread's stack and end the
    process.
    """
    # Counting is fast, and enough for nearly all texts.
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = match.group()
        depth += (mark in "[{") - (mark in "]}")
        if depth > limit:
            return True
    return False
