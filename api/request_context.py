"""What one request carries along: its id, who asks, and from where."""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

import falcon


Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# As some balancers have it: 192.0.2.1:4711, [2001:db8::1]:4711.  Without brackets, the
# port would be a part of the address (RFC 5952, section 6).
_WITH_PORT = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Principal:
    """
    Who asks, as a verified token says.

    ``sub`` is also the scope of idempotency keys and references: no client ever
    meets another's.  ``scopes`` is None where the token has no such claim.
    """

    sub: str
    roles: frozenset[str]
    jti: str
    expires_at: datetime
    scopes: frozenset[str] | None = None


def new_request_id() -> str:
    """Return a fresh id, 128 random bits."""
    return f"req_{secrets.token_hex(16)}"


def request_id(req: falcon.Request) -> str:
    """
    Return the id of *req*: the caller's ``X-Request-Id``, or a new one.

    The caller's is taken only if it cannot upset a log or a header.  The first
    call decides; afterwards the answer stays the same.
    """
    known: str | None = req.context.get("request_id")
    if known is None:
        asked = req.get_header("X-Request-Id") or ""
        known = asked if _REQUEST_ID.fullmatch(asked) else new_request_id()
        req.context.request_id = known
    return known


def principal(req: falcon.Request) -> Principal:
    """Return who asks.  Only routes that need a role may call this."""
    known: Principal = req.context.principal
    return known


def peer_address(
    req: falcon.Request,
    proxies: Sequence[Network] = (),
    *,
    at_a_loss: Callable[[str], object] = lambda _: None,
) -> str:
    """
    Return the address that *req* came from, in its one spelling.

    It is the socket's.  Only where that one is among *proxies* counts what they say:
    of ``X-Forwarded-For`` the last address that is not a proxy's, since all before it
    was written by whoever sent it.  *at_a_loss* is told of a proxy that says nothing
    which can be read: it is the address then, and its clients are one.
    """
    peer = _socket_address(req)
    hops = (req.get_header("X-Forwarded-For") or "").split(",")
    while hops and _is_proxy(peer, proxies):
        before = _hop(hops.pop().strip())
        if before is None:
            at_a_loss(str(peer or "unknown"))
            break
        peer = before
    return str(peer or "unknown")


def came_through(req: falcon.Request, proxies: Sequence[Network]) -> bool:
    """Whether one of *proxies* sent *req*; where there are none, nobody has to."""
    return not proxies or _is_proxy(_socket_address(req), proxies)


def neighbourhood(peer: str) -> str:
    """
    Return who is counted together with *peer*.

    One customer has 2**64 addresses of IPv6 at least (RFC 6177), and one of IPv4.
    """
    address = _address(peer)
    if not isinstance(address, IPv6Address):
        return peer
    return str(ip_network((address, 64), strict=False))


def _socket_address(req: falcon.Request) -> _Address | None:
    return _address(req.env.get("REMOTE_ADDR", ""))


def _is_proxy(peer: _Address | None, proxies: Sequence[Network]) -> bool:
    # A Unix socket's peer has no address: who may open the file is the proxy, where
    # there is one.
    if peer is None:
        return bool(proxies)
    return any(peer in proxy for proxy in proxies)


def _hop(text: str) -> _Address | None:
    found = _WITH_PORT.fullmatch(text)
    if found is None:
        return _address(text)
    address = _address(found["six"] or found["four"] or "")
    # Brackets are around IPv6 alone (RFC 3986, section 3.2.2).
    return address if found["six"] is None or ":" in found["six"] else None


def _address(text: str) -> _Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        # A socket for both families shows IPv4 as ::ffff:192.0.2.1; zones are ours.
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
