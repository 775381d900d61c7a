"""What belongs to one request: its id, the authenticated caller, the peer's address."""

import re
import secrets
from collections.abc import Callable, Sequence

from falcon import Request

from api.principal import (
    Address,
    Network,
    Principal,
    is_proxy,
    parse_address,
    parse_hop,
)
from signer.model.audit_record import Actor


TENANT = "hotwallet.tenant"
"""Where the WSGI environment has the caller's tenant, once the token is verified."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


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
    known = Actor.from_token(caller.sub, request_id(req), caller.jti, caller.scopes)
    return known.because(reason)


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
    while hops and is_proxy(peer, proxies):
        previous = parse_hop(hops.pop().strip())
        if previous is None:
            on_unreadable(str(peer or "unknown"))
            break
        peer = previous
    return str(peer or "unknown")


def is_from_proxy(req: Request, proxies: Sequence[Network]) -> bool:
    """Whether one of *proxies* sent *req*; always true if there are no proxies."""
    return not proxies or is_proxy(_socket_address(req), proxies)


def _socket_address(req: Request) -> Address | None:
    return parse_address(req.env.get("REMOTE_ADDR", ""))
