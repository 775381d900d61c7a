"""What a client prefers: the header ``Prefer`` (RFC 7240)."""

import re
from collections.abc import Mapping

from falcon import Request


# A comma in a quoted string is a part of it.  Without its second quote, a string ends
# with the header.
_MEMBER = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*(?:"|\\?$))+', re.DOTALL)


def read_preferences(req: Request) -> Mapping[str, str]:
    """
    Return the values of *req*'s preferences by name, in lower case; "" without one.

    The first of two with one name counts, and callers look up those that they know
    (RFC 7240, section 2).  Parameters, which follow a semicolon, are left out.
    """
    found: dict[str, str] = {}
    for member in _MEMBER.findall(req.get_header("Prefer") or ""):
        name, _, value = member.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found
