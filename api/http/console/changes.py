"""
The pages of all changes: a form, its confirmation, and the change itself.

The confirmation repeats exactly what will be done.  The last step is a change as in the
API: its token needs the scope of the API's route, is used up, and must be of the
session's subject.  It is refused if the state is not the one that was confirmed.
"""

from functools import partial

from falcon import Request, Response

from api.auth.authorization import Permission
from api.auth.jwt_verifier import JWTVerifier
from api.console.changes.change import REASON, Change
from api.http import query
from api.http.console.login import bearer_of
from api.http.console.resource import (
    ADMINISTRATORS,
    Console,
    SessionPage,
    session_of,
)
from api.principal import Principal
from api.request_context import actor
from api.views.codes import find_code
from signer.errors import ConflictError, PermissionDeniedError


CONFIRMED = "confirmed"
TOKEN = "token"  # noqa: S105  The name of a field.


class ChangePage(SessionPage):
    """One of the three pages of a change."""

    def __init__(self, console: Console, change: Change) -> None:
        super().__init__(console)
        self._change = change
        self._names = [each.name for each in change.fields]


class ChangeForm(ChangePage):
    """``/console/changes/{name}``: the form; a link may fill it in."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the form."""
        given = query.parameters(req, *self._names, from_form=True)
        container = self._console.container
        options = {
            each.name: each.options(container)
            for each in self._change.fields
            if each.options is not None
        }

        self.show(
            req,
            resp,
            "change_form.html",
            change=self._change,
            options=options,
            given=given,
        )


class ChangeConfirmation(ChangePage):
    """``/console/changes/{name}/confirm``: shows exactly what will be done."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Repeat the form and the state that it is about, and ask for a token."""
        container, change = self._console.container, self._change
        values = change.read(container, self.read_form(req, *self._names))
        plan = change.plan(container, values)

        self.show(
            req,
            resp,
            "change_confirm.html",
            change=change,
            values=values,
            shown=change.shown(container, values),
            plan=plan,
            confirmed=plan.digest(values),
        )


class ChangeExecution(ChangePage):
    """``/console/changes/{name}/make``: makes the change, with a token."""

    def on_post(self, req: Request, resp: Response) -> None:
        """Make the change, as the API does, and show what it did."""
        form = self.read_form(req, *self._names, CONFIRMED, TOKEN)
        container, change = self._console.container, self._change
        values = change.read(container, form)
        if change.plan(container, values).digest(values) != form[CONFIRMED]:
            raise ConflictError(
                "nothing was changed: it is not as the page showed it any more. Open"
                " the form again"
            )
        permission = Permission(ADMINISTRATORS, change.scope, administrative=True)
        verify = partial(_authenticate, session_of(req).subject, form[TOKEN])
        self._console.authorization.authorize(req, permission, verify)
        outcome = change.make(
            container, values, actor(req, values.get(REASON.name, ""))
        )

        self.show(
            req,
            resp,
            "change_done.html",
            change=change,
            shown=change.shown(container, values),
            outcome=outcome,
            entry=find_code(outcome.problem),
        )


def _authenticate(subject: str, token: str, verifier: JWTVerifier) -> Principal:
    """Return the caller whom *token* identifies, who must be *subject*."""
    caller = bearer_of(token)(verifier)
    if caller.sub != subject:
        raise PermissionDeniedError("the token is of another subject than the session")
    return caller
