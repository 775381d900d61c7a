"""
The pages of an action: a form, its confirmation, and what the action did.

The confirmation repeats exactly what will be done.  The last step is the action as in
the API: its token needs the scope of the API's route, is used up, and must be of the
session's subject.  It is refused if the state is not the one that was confirmed.
"""

from functools import partial

from falcon import Request, Response

from api.actions.action import ADMINISTRATORS, REASON, Action
from api.auth.authorization import Permission
from api.auth.jwt_verifier import JWTVerifier
from api.extras.console.pages.login import bearer_of
from api.extras.console.pages.session_page import Console, SessionPage, session_of
from api.http import query
from api.principal import Principal
from api.request_context import actor
from api.views.codes import find_code
from signer.errors import ConflictError, PermissionDeniedError


CONFIRMED = "confirmed"
TOKEN = "token"  # noqa: S105  The name of a field.


class ActionPage(SessionPage):
    """One of the three pages of an action."""

    def __init__(self, console: Console, action: Action) -> None:
        super().__init__(console)
        self._action = action
        self._names = [each.name for each in action.form]


class ActionForm(ActionPage):
    """``/console/changes/{name}``: the form; a link may fill it in."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the form."""
        given = query.parameters(req, *self._names, from_form=True)
        container, form = self._console.container, self._action.form
        offered = {each.name: each.offered(container) for each in form}

        self.show(
            req,
            resp,
            "change_form.html",
            change=self._action,
            options={name: each for name, each in offered.items() if each is not None},
            given=given,
        )


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
    caller = bearer_of(token)(verifier)
    if caller.sub != subject:
        raise PermissionDeniedError("the token is of another subject than the session")
    return caller
