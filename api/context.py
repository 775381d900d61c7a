"""What one request carries along: its id, and who asks."""

import re
import secrets
from dataclasses import dataclass

import falcon


_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Principal:
    """
    Who asks, as a verified token says.

    ``sub`` is also the scope of idempotency keys and references: no client ever
    meets another's.
    """

    sub: str
    roles: frozenset[str]
    jti: str


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
