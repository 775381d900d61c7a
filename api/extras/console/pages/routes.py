"""Adds the routes under ``/console``, and answers their errors with pages."""

from typing import TYPE_CHECKING, Any

import falcon
from falcon import Request, Response

from api.actions.catalogue import FORMS
from api.container import Container
from api.extras.console import PREFIX, is_console
from api.extras.console.pages.actions import (
    ActionConfirmation,
    ActionExecution,
    ActionForm,
)
from api.extras.console.pages.audit import AuditExport, AuditPage
from api.extras.console.pages.login import Login, Logout
from api.extras.console.pages.pages import (
    ApprovalPage,
    ApprovalsPage,
    CodePage,
    Icon,
    KeysPage,
    OverviewPage,
    PolicyPage,
    RefundPage,
    RefundsExport,
    RefundsPage,
    SignaturesPage,
    StopsPage,
    StyleSheet,
    TrendsPage,
    WalletsPage,
    WebhooksPage,
)
from api.extras.console.pages.session_page import Console, show
from api.http import problems
from api.http.concurrency import WaitingRequests
from api.http.middleware import AuthorizationMiddleware
from api.request_context import request_id
from api.views.codes import find_code
from signer.errors import AuthenticationError


if TYPE_CHECKING:
    from api.http.app import App


def add_console(
    app: "App",
    container: Container,
    authorization: AuthorizationMiddleware,
    _: WaitingRequests,
) -> None:
    """Add the console to *app*, which already answers errors with problems."""
    console = Console(container, authorization)
    app.add_route(PREFIX, OverviewPage(console))
    app.add_route(f"{PREFIX}/console.css", StyleSheet(console))
    app.add_route(f"{PREFIX}/icon.svg", Icon(console))
    app.add_route(f"{PREFIX}/login", Login(console))
    app.add_route(f"{PREFIX}/logout", Logout(console))
    app.add_route(f"{PREFIX}/refunds", RefundsPage(console))
    app.add_route(f"{PREFIX}/refunds/export", RefundsExport(console))
    app.add_route(f"{PREFIX}/refunds/{{refund_id}}", RefundPage(console))
    app.add_route(f"{PREFIX}/approvals", ApprovalsPage(console))
    app.add_route(f"{PREFIX}/approvals/{{digest}}", ApprovalPage(console))
    app.add_route(f"{PREFIX}/keys", KeysPage(console))
    app.add_route(f"{PREFIX}/wallets", WalletsPage(console))
    app.add_route(f"{PREFIX}/signatures", SignaturesPage(console))
    app.add_route(f"{PREFIX}/audit", AuditPage(console))
    app.add_route(f"{PREFIX}/audit/export", AuditExport(console))
    app.add_route(f"{PREFIX}/policy", PolicyPage(console))
    app.add_route(f"{PREFIX}/trends", TrendsPage(console))
    app.add_route(f"{PREFIX}/codes/{{code}}", CodePage(console))
    app.add_route(f"{PREFIX}/webhooks", WebhooksPage(console))
    app.add_route(f"{PREFIX}/stops", StopsPage(console))
    for action in FORMS:
        # A route of its own each, so that the audit of a refusal names the action.
        path = f"{PREFIX}/changes/{action.name}"
        app.add_route(path, ActionForm(console, action))
        app.add_route(f"{path}/confirm", ActionConfirmation(console, action))
        app.add_route(f"{path}/make", ActionExecution(console, action))
    app.add_error_handler(Exception, _respond)
    app.add_error_handler(falcon.HTTPError, _respond)


def _respond(
    req: Request, resp: Response, error: Exception, params: dict[str, Any]
) -> None:
    problems.respond(req, resp, error, params)
    if not is_console(req.uri_template):
        return
    problem = problems.problem_of(error)
    resp.data = None
    show(
        req,
        resp,
        "error.html",
        {
            "problem": problem,
            "entry": find_code(problem.code),
            "request_id": request_id(req),
            # The token of a change is another one than that of the session.
            "is_logged_out": isinstance(error, AuthenticationError)
            and "session" not in req.context,
        },
    )
