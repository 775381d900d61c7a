"""What belongs to one request: its id, the authenticated caller, the peer's address."""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from falcon import Request

from signer.model.audit_record import Actor


Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# Some load balancers append the port: 192.0.2.1:4711, [2001:db8::1]:4711.  An IPv6
# address needs brackets then (RFC 5952, section 6).
_WITH_PORT = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?")


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


def new_request_id() -> str:
    """Return a fresh id, 128 random bits."""
    return f"req_{secrets.token_hex(16)}"


def request_id(req: Request) -> str:
    """
    Return the id of *req*: the caller's ``X-Request-Id``, or a new one.

    The caller's id is used only if it is safe in a log and a header.  Later calls
    return the same id.
    """
    known: str | None = req.context.get("request_id")
    if known is None:
        requested = req.get_header("X-Request-Id") or ""
        known = requested if _REQUEST_ID.fullmatch(requested) else new_request_id()
        req.context.request_id = known
    return known


def principal(req: Request) -> Principal:
    """Return the caller.  Only routes that require a role may call this."""
    known: Principal = req.context.principal
    return known


def tenant(req: Request) -> str:
    """Return the caller's tenant.  Only routes for tenants may call this."""
    known: str = req.context.tenant
    return known


def actor(req: Request, reason: str = "") -> Actor:
    """Return the caller, who acts for *reason*, as the actor of audit records."""
    caller = principal(req)
    known = Actor.from_token(caller.sub, request_id(req), caller.jti)
    return replace(known, reason=reason)


def peer_address(
    req: Request,
    proxies: Sequence[Network] = (),
    *,
    on_unreadable: Callable[[str], object] = lambda _: None,
) -> str:
    """
    Return the address that *req* came from, in canonical form.

    This is the address of the socket.  If that is one of *proxies*, it is the last
    address of ``X-Forwarded-For`` that is not a proxy's: the client may have written
    everything before it.  If a proxy sends no readable address, *on_unreadable* is
    called with the proxy's address, which is returned.
    """
    peer = _socket_address(req)
    hops = (req.get_header("X-Forwarded-For") or "").split(",")
    while hops and _is_proxy(peer, proxies):
        previous = _parse_hop(hops.pop().strip())
        if previous is None:
            on_unreadable(str(peer or "unknown"))
            break
        peer = previous
    return str(peer or "unknown")


def is_from_proxy(req: Request, proxies: Sequence[Network]) -> bool:
    """Whether one of *proxies* sent *req*; always true if there are no proxies."""
    return not proxies or _is_proxy(_socket_address(req), proxies)


def rate_limit_key(peer: str) -> str:
    """
    Return the name under which requests of the address *peer* are counted.

    IPv6 addresses are counted per /64 network, the least that a customer is assigned
    (RFC 6177).
    """
    address = _parse_address(peer)
    if not isinstance(address, IPv6Address):
        return peer
    return str(ip_network((address, 64), strict=False))


def _socket_address(req: Request) -> _Address | None:
    return _parse_address(req.env.get("REMOTE_ADDR", ""))


def _is_proxy(peer: _Address | None, proxies: Sequence[Network]) -> bool:
    # The peer of a Unix socket has no address.  Only the proxy may open the socket.
    if peer is None:
        return bool(proxies)
    return any(peer in proxy for proxy in proxies)


def _parse_hop(text: str) -> _Address | None:
    match = _WITH_PORT.fullmatch(text)
    if match is None:
        return _parse_address(text)
    address = _parse_address(match["six"] or match["four"] or "")
    # Only IPv6 addresses are in brackets (RFC 3986, section 3.2.2).
    return address if match["six"] is None or ":" in match["six"] else None


def _parse_address(text: str) -> _Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # A dual-stack socket shows IPv4 as ::ffff:192.0.2.1.  Drop the zone, too.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
