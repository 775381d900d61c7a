"""What all resources of the console share: the session, pages and forms."""

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, NoReturn
from urllib.parse import parse_qsl, urlencode

import falcon
from falcon import Request, Response

from api.actions.action import ADMINISTRATORS
from api.auth.authorization import Permission
from api.auth.jwt_verifier import JWTVerifier
from api.container import Container
from api.extras.console.rendering import CONTENT_POLICY, render
from api.extras.console.sessions import (
    Session,
    SessionCookie,
    SessionExpiredError,
    Sessions,
)
from api.http import query
from api.http.body import read_bytes
from api.http.middleware import AuthorizationMiddleware, Resource
from api.principal import Principal
from api.views.administration import describe_stop
from signer.errors import InvalidInputError, PermissionDeniedError


FORM_TOKEN = "form"  # noqa: S105  The name of a field.

_MOST_FIELDS = 8
_OWN_SITE = frozenset({"same-origin", "none"})


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


_MOST_DIGITS = 15


def read_sequence(given: Mapping[str, str]) -> int | None:
    """
    Return the sequence number before which a page begins.

    Raises:
        InvalidInputError: It is no such number.
    """
    text = given.get("before")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidInputError("must be a sequence number", field="before")
    return int(text)


def next_page(
    given: Mapping[str, str], name: str, start: str | int | None
) -> str | None:
    """Return the query of the page that begins at *start*; None if there is none."""
    return None if start is None else urlencode({**given, name: start})


LOGIN = "/console/login"

READING = Permission(ADMINISTRATORS, "console:read", administrative=True)
"""What a token needs to start a session, and a session to read a page."""


class Console:
    """The parts that the console's resources share."""

    def __init__(
        self, container: Container, authorization: AuthorizationMiddleware
    ) -> None:
        self.container = container
        self.authorization = authorization
        self.cookie = SessionCookie(is_production=container.settings.is_production)

    @cached_property
    def sessions(self) -> Sessions:
        """Makes and verifies sessions, by the clock of tokens."""
        return Sessions(self.container.row_macs, self.container.clock)


class ConsolePage(Resource):
    """A public page of the console."""

    required_role: ClassVar[str | frozenset[str] | None] = None
    content_policy = CONTENT_POLICY

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(
        self, req: Request, resp: Response, template: str, **values: object
    ) -> None:
        """Answer the page that *template* makes of *values*."""
        show(req, resp, template, values)


class SessionPage(ConsolePage):
    """A page for administrators with a session.  It reads, also with POST."""

    required_role = ADMINISTRATORS
    required_scope = "console:read"
    is_administrative = True
    only_reads = True

    def authenticate(self, req: Request, verifier: JWTVerifier) -> Principal:
        """
        Return the administrator of the session.

        Raises:
            falcon.HTTPSeeOther: There is no session, or its time is over: log in.
            AuthenticationError: The service did not make the session.
        """
        text = self._console.cookie.read(req)
        if text is None:
            raise falcon.HTTPSeeOther(LOGIN)
        try:
            session = self._console.sessions.read(text)
        except SessionExpiredError:
            raise falcon.HTTPSeeOther(LOGIN) from None
        req.context.session = session
        req.context.form_token = self._console.sessions.form_token(session)
        return session.principal

    def show(
        self, req: Request, resp: Response, template: str, **values: object
    ) -> None:
        """Answer the page, which also shows what is stopped."""
        switch = self._console.container.holds
        names = switch.names()
        stops = [describe_stop(stop, names) for stop in switch.stops()]
        super().show(req, resp, template, stops=stops, **values)

    def read_form(self, req: Request, *names: str) -> Mapping[str, str]:
        """
        Return the fields *names* of a form of the session.

        Raises:
            InvalidInputError: As ``forms.read_form``.
            PermissionDeniedError: The form is not one of this session (CSRF).
        """
        try:
            given = read_form(req, FORM_TOKEN, *names)
        except PermissionDeniedError as e:
            self._refuse(req, e)
        if not self._console.sessions.is_form_token(session_of(req), given[FORM_TOKEN]):
            self._refuse(
                req,
                PermissionDeniedError(
                    "the form is not of this session: open the page again"
                ),
            )
        return given

    def _refuse(self, req: Request, error: PermissionDeniedError) -> NoReturn:
        self._console.authorization.refuse(req, READING, error)


def session_of(req: Request) -> Session:
    """Return the session.  Only a ``SessionPage`` may call this."""
    known: Session = req.context.session
    return known


def show(
    req: Request, resp: Response, template: str, values: Mapping[str, object]
) -> None:
    """Answer the page that *template* makes of *values*."""
    resp.content_type = falcon.MEDIA_HTML
    resp.text = render(
        template,
        session=req.context.get("session"),
        form_token=req.context.get("form_token", ""),
        path=req.path,
        **{"stops": (), **values},
    )
