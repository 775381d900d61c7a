"""
The cookie of a session.

Its name begins with ``__Host-``: browsers then accept it over HTTPS only, for this host
only (RFC 6265bis, section 4.1.3).  Outside production a browser on the same machine may
use HTTP, and gets a cookie without the prefix.
"""

from datetime import datetime
from ipaddress import ip_address

from falcon import Request, Response

from api.extras.console.sessions import SESSION_LIFETIME
from signer.model.refund import EPOCH


SECURE_NAME = "__Host-hotwallet-console"
LOCAL_NAME = "hotwallet-console"


class SessionCookie:
    """Reads, sets and removes the cookie."""

    def __init__(self, *, is_production: bool) -> None:
        self._is_production = is_production

    def read(self, req: Request) -> str | None:
        """Return the value; None if there is none, or more than one."""
        values = req.get_cookie_values(self._name(req)) or []
        return values[0] if len(values) == 1 and values[0] else None

    def set(self, req: Request, resp: Response, value: str) -> None:
        """Make the browser keep *value* for as long as a session lasts."""
        self._set(req, resp, value, max_age=int(SESSION_LIFETIME.total_seconds()))

    def remove(self, req: Request, resp: Response) -> None:
        """Make the browser forget the value."""
        # Falcon's ``unset_cookie`` leaves ``Secure`` out, which the name requires.
        self._set(req, resp, "", expires=EPOCH)

    def _set(
        self, req: Request, resp: Response, value: str, **until: int | datetime
    ) -> None:
        resp.set_cookie(
            self._name(req),
            value,
            path="/",
            secure=self._is_secure(req),
            http_only=True,
            same_site="Strict",
            **until,  # type: ignore[arg-type]
        )

    def _name(self, req: Request) -> str:
        return SECURE_NAME if self._is_secure(req) else LOCAL_NAME

    def _is_secure(self, req: Request) -> bool:
        return self._is_production or not _is_loopback(req.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
