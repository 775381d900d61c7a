"""
Sessions of the console, which may read and nothing else, and their cookie.

A session is a text with a MAC that the browser keeps in a cookie: who may read what,
until when.  No row is stored, so every process of the service accepts it.  A change
needs a token as well, so a stolen session changes nothing.  A form must come from this
site, and be one of its session (CSRF).

The cookie's name begins with ``__Host-``: browsers then accept it over HTTPS only, for
this host only (RFC 6265bis, section 4.1.3).  Outside production a browser on the same
machine may use HTTP, and gets a cookie without the prefix.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import falcon
from falcon import Request, Response

from api.http import query
from api.http.body import read_bytes
from api.principal import Principal
from signer.addresses import is_loopback_address
from signer.errors import (
    AuthenticationError,
    InvalidInputError,
    PermissionDeniedError,
)
from signer.model.transaction import EPOCH
from signer.ports.clock import Clock
from signer.row_macs import RowMACs


SESSION_LIFETIME = timedelta(minutes=30)
"""How long a session lasts.  It cannot be prolonged."""

SESSION_INVALID = "session-invalid"

_MAX_TEXT = 4096
_MOST_FIELDS = 8
_OWN_SITE = frozenset({"same-origin", "none"})
_COOKIE = "console session"
_FORM = "console form"


class SessionExpiredError(AuthenticationError):
    """The session was genuine, and its time is over."""


@dataclass(frozen=True, slots=True)
class Session:
    """
    What the administrator *subject* may read until *expires_at*.

    ``id`` is random.  Audit records of refusals name it in place of a token.
    """

    id: str
    subject: str
    roles: frozenset[str]
    scopes: frozenset[str]
    expires_at: datetime

    @property
    def principal(self) -> Principal:
        return Principal(
            self.subject, self.roles, self.id, self.expires_at, self.scopes
        )


class Sessions:
    """Makes and verifies sessions, and the tokens of their forms."""

    def __init__(self, macs: RowMACs, clock: Clock) -> None:
        """Use the keys of *macs*: all processes of the service have them."""
        self._macs = macs
        self._clock = clock

    def start(self, caller: Principal) -> tuple[Session, str]:
        """Return a new session of *caller*, and the text of its cookie."""
        expires_at = self._clock().replace(microsecond=0) + SESSION_LIFETIME
        session = Session(
            f"console-{secrets.token_hex(16)}",
            caller.sub,
            caller.roles,
            caller.scopes or frozenset(),
            expires_at,
        )
        facts = {
            "id": session.id,
            "sub": session.subject,
            "roles": sorted(session.roles),
            "scopes": sorted(session.scopes),
            "exp": int(expires_at.timestamp()),
        }
        payload = base64.urlsafe_b64encode(json.dumps(facts).encode()).decode()
        return session, f"{payload}.{self._macs.mac_of_text(_COOKIE, payload)}"

    def read(self, text: str) -> Session:
        """
        Return the session that the cookie *text* has.

        Raises:
            SessionExpiredError: Its time is over.
            AuthenticationError: ``session-invalid``: this service did not make it.
        """
        payload, _, mac = text.rpartition(".")
        if len(text) > _MAX_TEXT or not self._macs.is_mac_of_text(
            mac, _COOKIE, payload
        ):
            raise AuthenticationError(SESSION_INVALID)
        # The MAC shows that ``start`` made it: no part can be missing.
        facts = json.loads(base64.urlsafe_b64decode(payload))
        session = Session(
            facts["id"],
            facts["sub"],
            frozenset(facts["roles"]),
            frozenset(facts["scopes"]),
            datetime.fromtimestamp(facts["exp"], UTC),
        )
        if session.expires_at <= self._clock():
            raise SessionExpiredError("session-expired")
        return session

    def form_token(self, session: Session) -> str:
        """Return what each form of *session* sends back (against CSRF)."""
        return self._macs.mac_of_text(_FORM, session.id)

    def is_form_token(self, session: Session, token: str) -> bool:
        return self._macs.is_mac_of_text(token, _FORM, session.id)


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
        self._set(req, resp, value, max_age=int(SESSION_LIFETIME.total_seconds()))

    def remove(self, req: Request, resp: Response) -> None:
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
        return self._is_production or not (
            req.host == "localhost" or is_loopback_address(req.host.strip("[]"))
        )


def read_form(req: Request, *names: str) -> Mapping[str, str]:
    """
    Return the fields of the form that *req* carries: exactly *names*.

    Raises:
        falcon.HTTPError, InvalidInputError: As ``read_bytes``.
        InvalidInputError: The body is no form, or has other fields.
        PermissionDeniedError: The browser says that another site sent the form.
    """
    query.parameters(req)
    body = read_bytes(req, media_type=falcon.MEDIA_URLENCODED)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise InvalidInputError("is no form", field="body") from None
    if sorted(name for name, _ in pairs) != sorted(names):
        raise InvalidInputError(
            "has other fields than the form: open the page again", field="body"
        )
    # Browsers send this header to HTTPS and to this host.  ``Origin`` would be "null",
    # because the pages forbid referrers.
    if req.get_header("Sec-Fetch-Site", default="none") not in _OWN_SITE:
        raise PermissionDeniedError("another site sent the form")
    return dict(pairs)
