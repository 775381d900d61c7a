"""Logging in with a token, and out."""

from collections.abc import Callable

import falcon
from falcon import Request, Response

from api.auth.jwt_verifier import JWTVerifier
from api.extras.console.pages.session_page import (
    LOGIN,
    READING,
    ConsolePage,
    SessionPage,
    read_form,
)
from api.extras.console.sessions import Session
from api.http import query
from api.principal import Principal
from api.request_context import actor, principal
from signer.audit.actions import AuditAction
from signer.errors import StoreError, StoreUnavailableError
from signer.model.audit_record import Operation


class Login(ConsolePage):
    """``/console/login``: starts a session, on record; its token is used up."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Ask for a token."""
        query.parameters(req)

        self.show(req, resp, "login.html")

    def on_post(self, req: Request, resp: Response) -> None:
        """Start a session of the subject of the token in the form."""
        form = read_form(req, "token")
        console = self._console
        console.authorization.authorize(req, READING, bearer_of(form["token"]))
        session, text = console.sessions.start(principal(req))
        self._record(req, session)

        console.cookie.set(req, resp, text)
        resp.status = falcon.HTTP_SEE_OTHER
        resp.location = "/console"

    def _record(self, req: Request, session: Session) -> None:
        """Record that *session* began; raises ``StoreUnavailableError``."""
        audit = self._console.container.audit
        record = audit.result(
            AuditAction.ADMIN_ACCESS,
            Operation.ADMINISTRATION,
            actor(req),
            route=req.uri_template,
            session=session.id,
        )
        try:
            audit.write(record)
        except (StoreError, OSError) as e:
            raise StoreUnavailableError("the audit cannot be written") from e


class Logout(SessionPage):
    """``/console/logout``: makes the browser forget the session."""

    def on_post(self, req: Request, resp: Response) -> None:
        """End the session."""
        self.read_form(req)

        self._console.cookie.remove(req, resp)
        resp.status = falcon.HTTP_SEE_OTHER
        resp.location = LOGIN


def bearer_of(token: str) -> Callable[[JWTVerifier], Principal]:
    """Return what verifies *token*, as if it came in the header ``Authorization``."""
    # A pasted token often ends with a line feed.
    return lambda verifier: verifier.authenticate(f"Bearer {token.strip()}")
