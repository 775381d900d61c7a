"""Who sends a request: the authenticated caller, and addresses of peers and proxies."""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)


@dataclass(frozen=True, slots=True)
class Principal:
    """
    The caller, as a verified token describes it.

    ``scopes`` and ``client_id`` are None if the token has no such claim.
    """

    sub: str
    roles: frozenset[str]
    jti: str
    expires_at: datetime
    scopes: frozenset[str] | None = None
    client_id: str | None = None


tenant_of_thread = ContextVar[str | None]("tenant_of_thread", default=None)
"""The tenant whose request the thread answers, if several share the process."""

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# Some load balancers append the port: 192.0.2.1:4711, [2001:db8::1]:4711.  An IPv6
# address needs brackets then (RFC 5952, section 6).
_WITH_PORT = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?")


def rate_limit_key(peer: str) -> str:
    """
    Return the name under which requests of the address *peer* are counted.

    IPv6 addresses are counted per /64 network, the least that a customer is assigned
    (RFC 6177).
    """
    address = parse_address(peer)
    if not isinstance(address, IPv6Address):
        return peer
    return str(ip_network((address, 64), strict=False))


def is_proxy(peer: Address | None, proxies: Sequence[Network]) -> bool:
    """Whether *peer* is one of *proxies*; None is the peer of a Unix socket."""
    # The peer of a Unix socket has no address.  Only the proxy may open the socket.
    if peer is None:
        return bool(proxies)
    return any(peer in proxy for proxy in proxies)


def parse_hop(text: str) -> Address | None:
    """Return the address in *text*, a part of ``X-Forwarded-For``, or None."""
    match = _WITH_PORT.fullmatch(text)
    if match is None:
        return parse_address(text)
    address = parse_address(match["six"] or match["four"] or "")
    # Only IPv6 addresses are in brackets (RFC 3986, section 3.2.2).
    return address if match["six"] is None or ":" in match["six"] else None


@lru_cache(256)
def parse_address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # A dual-stack socket shows IPv4 as ::ffff:192.0.2.1.  Drop the zone, too.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
