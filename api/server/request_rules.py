"""
Refuses requests that a proxy in front could read differently from this service.

A proxy's rule for a path or a header protects only if both read the same.  gunicorn
refuses ambiguous lengths itself; these rules cover paths, hosts and repeated headers.
"""

import re
from collections import Counter
from typing import Any

from gunicorn.http.errors import (  # type: ignore[import-untyped]
    InvalidHeader,
    InvalidRequestLine,
)


# The headers that the service reads and that have one value.  gunicorn refuses repeated
# lengths, hosts and content types.
_SINGLE = frozenset(
    {"AUTHORIZATION", "CONTENT-ENCODING", "IDEMPOTENCY-KEY", "X-REQUEST-ID"}
)

# No empty segment, no dot segment, and no percent-encoding: no route needs them.
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:-]+"
_PATH = re.compile(rf"/|(?:/{_SEGMENT})+/?")

# RFC 9110, section 7.2; a name, an IPv4 address, or an IPv6 address in brackets.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def require_unambiguous(request: Any) -> None:
    """
    Check the head of gunicorn's *request*.

    Raises:
        InvalidRequestLine: The path has an empty, a relative or an encoded segment, or
            the target has a fragment or names a host.
        InvalidHeader: ``Host`` is missing or malformed, a header that may occur once is
            repeated, or ``Transfer-Encoding`` is not ``chunked``.
    """
    path, _, query = request.uri.partition("?")
    if not _PATH.fullmatch(path) or "#" in query:
        raise InvalidRequestLine(request.uri)
    values = dict(request.headers)
    host = values.get("HOST")
    # HTTP/1.0 does not require the header; probes of load balancers may omit it.
    if not _HOST.fullmatch(host or "") and (host or request.version >= (1, 1)):
        raise InvalidHeader("HOST", req=request)
    if values.get("TRANSFER-ENCODING", "chunked").strip().lower() != "chunked":
        raise InvalidHeader("TRANSFER-ENCODING", req=request)
    counts = Counter(name for name, _ in request.headers)
    for name, count in counts.items():
        if count > 1 and name in _SINGLE:
            raise InvalidHeader(name, req=request)
