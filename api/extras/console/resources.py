"""
The resources of the console: the session, pages, forms, actions and downloads.

An action has a form, its confirmation, and a page of what it did.  The confirmation
repeats exactly what will be done.  The last step is the action as in the API: its token
needs the scope of the API's route, is used up, and must be of the session's subject.
It is refused if the state is not the one that was confirmed.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from threading import Lock
from typing import ClassVar, NoReturn

import falcon
from falcon import Request, Response

from api.actions.action import ADMINISTRATORS, REASON, Action
from api.auth.authorization import Permission
from api.auth.jwt_verifier import JWTVerifier
from api.container import Container
from api.extras.console.rendering import CONTENT_POLICY, render
from api.extras.console.sessions import (
    Session,
    SessionCookie,
    SessionExpiredError,
    Sessions,
    read_form,
)
from api.http import query
from api.http.exports import Exports, Stream
from api.http.middleware import AuthorizationMiddleware, Resource
from api.principal import Principal
from api.request_context import actor, principal
from api.views.administration import describe_stop
from api.views.codes import find_code
from signer.audit.actions import AuditAction
from signer.audit.export import export
from signer.errors import (
    ConflictError,
    InvalidInputError,
    PermissionDeniedError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.audit_record import Operation
from signer.ports.refund_reports import RefundFilter


FORM_TOKEN, CONFIRMED, TOKEN = "form", "confirmed", "token"
"""The names of fields of forms."""

MOST_EXPORTED = 50_000
"""How many records a download of the audit log has, at most."""

_BLOCK = 64 * 1024

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

    def record(self, req: Request, **facts: str) -> None:
        """Record the access of *req* with *facts*; raises ``StoreUnavailableError``."""
        audit = self.container.audit
        record = audit.result(
            AuditAction.ADMIN_ACCESS,
            Operation.ADMINISTRATION,
            actor(req),
            route=req.uri_template,
            **facts,
        )
        try:
            audit.write(record)
        except (StoreError, OSError) as e:
            raise StoreUnavailableError("the audit cannot be written") from e


class ConsolePage(Resource):
    """A public page of the console."""

    required_role: ClassVar[str | frozenset[str] | None] = None
    content_policy = CONTENT_POLICY

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(
        self, req: Request, resp: Response, template: str, **values: object
    ) -> None:
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
        holds = self._console.container.holds
        names = holds.names()
        stops = [describe_stop(stop, names) for stop in holds.stops()]
        super().show(req, resp, template, stops=stops, **values)

    def read_form(self, req: Request, *names: str) -> Mapping[str, str]:
        """
        Return the fields *names* of a form of the session.

        Raises:
            InvalidInputError: As the function ``read_form``.
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
    resp.content_type = falcon.MEDIA_HTML
    resp.text = render(
        template,
        session=req.context.get("session"),
        form_token=req.context.get("form_token", ""),
        path=req.path,
        **{"stops": (), **values},
    )


class StaticFile(ConsolePage):
    """A file that all pages use."""

    def __init__(self, console: Console, media_type: str, data: bytes) -> None:
        super().__init__(console)
        self._media_type = media_type
        self._data = data

    def on_get(self, req: Request, resp: Response) -> None:
        query.parameters(req)

        resp.content_type = self._media_type
        resp.data = self._data


class Login(ConsolePage):
    """``/console/login``: starts a session, on record; its token is used up."""

    def on_get(self, req: Request, resp: Response) -> None:
        query.parameters(req)

        self.show(req, resp, "login.html")

    def on_post(self, req: Request, resp: Response) -> None:
        """Start a session of the subject of the token in the form."""
        form = read_form(req, TOKEN)
        console = self._console
        console.authorization.authorize(req, READING, _bearer_of(form[TOKEN]))
        session, text = console.sessions.start(principal(req))
        console.record(req, session=session.id)

        console.cookie.set(req, resp, text)
        resp.status = falcon.HTTP_SEE_OTHER
        resp.location = "/console"


class Logout(SessionPage):
    """``/console/logout``: makes the browser forget the session."""

    def on_post(self, req: Request, resp: Response) -> None:
        self.read_form(req)

        self._console.cookie.remove(req, resp)
        resp.status = falcon.HTTP_SEE_OTHER
        resp.location = LOGIN


def _bearer_of(token: str) -> Callable[[JWTVerifier], Principal]:
    """Return what verifies *token*, as if it came in the header ``Authorization``."""
    # A pasted token often ends with a line feed.
    return lambda verifier: verifier.authenticate(f"Bearer {token.strip()}")


class ReadingPage(SessionPage):
    """A page that shows what a function reads, for some query parameters."""

    def __init__(
        self,
        console: Console,
        template: str,
        names: tuple[str, ...],
        read: Callable[..., Mapping[str, object]],
    ) -> None:
        super().__init__(console)
        self._template = template
        self._names = names
        self._read = read

    def on_get(self, req: Request, resp: Response, **path: str) -> None:
        given = query.parameters(req, *self._names, from_form=True)
        values = self._read(self._console.container, given, **path)
        self.show(req, resp, self._template, **values)


class ActionPage(SessionPage):
    """One of the three pages of an action."""

    def __init__(self, console: Console, action: Action) -> None:
        super().__init__(console)
        self._action = action
        self._names = [each.name for each in action.form]


class ActionForm(ActionPage):
    """``/console/changes/{name}``: the form; a link may fill it in."""

    def on_get(self, req: Request, resp: Response) -> None:
        given = query.parameters(req, *self._names, from_form=True)
        container, action = self._console.container, self._action
        offered = {each.name: each.offered(container) for each in action.form}
        options = {name: each for name, each in offered.items() if each is not None}
        values = {"change": action, "options": options, "given": given}
        self.show(req, resp, "change_form.html", **values)


class ActionConfirmation(ActionPage):
    """``/console/changes/{name}/confirm``: shows exactly what will be done."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Repeat the form and the state that it is about, and ask for a token."""
        container, action = self._console.container, self._action
        texts = action.read_form(container, self.read_form(req, *self._names))
        plan = action.plan(container, action.values(texts))

        self.show(
            req,
            resp,
            "change_confirm.html",
            change=action,
            values=texts,
            shown=action.shown(container, texts),
            plan=plan,
            confirmed=plan.digest(texts),
        )


class ActionExecution(ActionPage):
    """``/console/changes/{name}/make``: takes the action, with a token."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Take the action, as the API does, and show what it did."""
        form = self.read_form(req, *self._names, CONFIRMED, TOKEN)
        container, action = self._console.container, self._action
        texts = action.read_form(container, form)
        values = action.values(texts)
        if action.plan(container, values).digest(texts) != form[CONFIRMED]:
            raise ConflictError(
                "nothing was changed: it is not as the page showed it any more. Open"
                " the form again"
            )
        permission = Permission(ADMINISTRATORS, action.scope, administrative=True)
        verify = partial(_authenticate, session_of(req).subject, form[TOKEN])
        self._console.authorization.authorize(req, permission, verify)
        outcome = action.make(container, values, actor(req, texts[REASON.name]))

        self.show(
            req,
            resp,
            "change_done.html",
            change=action,
            shown=action.shown(container, texts),
            outcome=outcome,
            entry=find_code(outcome.problem),
        )


def _authenticate(subject: str, token: str, verifier: JWTVerifier) -> Principal:
    """Return the caller whom *token* identifies, who must be *subject*."""
    caller = _bearer_of(token)(verifier)
    if caller.sub != subject:
        raise PermissionDeniedError("the token is of another subject than the session")
    return caller


class RefundsExport(SessionPage):
    """``/console/refunds/export``: a file with what a search finds."""

    def __init__(
        self,
        console: Console,
        names: tuple[str, ...],
        read: Callable[[Mapping[str, str]], RefundFilter],
    ) -> None:
        super().__init__(console)
        self._names = names
        self._read = read
        self._exports = Exports(console.container.store)

    def on_get(self, req: Request, resp: Response) -> None:
        """Send all refunds that the search fields describe."""
        given = query.parameters(req, *self._names, "format", from_form=True)
        wanted = self._read(given)
        if "q" in given and wanted.recipient is None:
            raise InvalidInputError("must be a recipient's address", field="q")
        caller = session_of(req).principal.sub
        self._exports.send(resp, wanted, query.FORMAT.read(given), caller=caller)


class AuditExport(SessionPage):
    """``/console/audit/export``: the whole chain as a file, on record."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._is_exporting = Lock()

    def on_post(self, req: Request, resp: Response) -> None:
        """
        Answer the export.

        Raises:
            ConflictError: The chain is too long for a download, or another download of
                this process is in progress.
        """
        self.read_form(req)
        container = self._console.container
        if container.store.head()[0] > MOST_EXPORTED:
            raise ConflictError(
                f"the log has more than {MOST_EXPORTED} records:"
                " run `hotwallet audit export --out audit.jsonl`"
            )
        if not self._is_exporting.acquire(blocking=False):
            raise ConflictError("another download is in progress: repeat it later")
        try:
            self._console.record(req)
            origin = f"hotwallet/{container.settings.audit_origin}"
            blocks = _join(export(container.store, origin))
            resp.stream = Stream(blocks, self._is_exporting.release)
        except BaseException:
            self._is_exporting.release()
            raise
        resp.content_type = "application/jsonl"
        resp.downloadable_as = "audit.jsonl"


def _join(lines: Iterator[bytes]) -> Iterator[bytes]:
    """
    Yield *lines* in blocks.

    A download that breaks off has no last line, which ``hotwallet audit verify``
    notices.
    """
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    yield bytes(block)
