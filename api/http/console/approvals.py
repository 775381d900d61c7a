"""
The pages of approvals.

A decision takes three steps: the proposal with a form, a page that repeats exactly what
will be done, and the decision with a token.  The last one is a change as in the API:
the token needs the scope, is used up, and its subject is the one who decides.
"""

from functools import partial

import falcon
from falcon import Request, Response

from api.auth.authorization import Permission
from api.auth.jwt_verifier import JWTVerifier
from api.console.approvals import DECISIONS, show_proposal
from api.http import query
from api.http.console.login import bearer_of
from api.http.console.resource import ADMINISTRATORS, SessionPage, session_of
from api.request_context import Principal, actor
from signer.approvals import require_reason
from signer.errors import InvalidInputError, PermissionDeniedError


_DECIDING = Permission(ADMINISTRATORS, "approvals:decide", administrative=True)


class ApprovalsPage(SessionPage):
    """``/console/approvals``: what waits for a decision."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List the proposals, the oldest first."""
        query.parameters(req)
        found = self._console.container.approvals.list()

        self.show(
            req,
            resp,
            "approvals.html",
            found=found,
            proposals=[show_proposal(each) for each in found.approvals],
            now=self._console.container.ledger_clock(),
        )


class ApprovalPage(SessionPage):
    """``/console/approvals/{digest}``: one proposal, with the form of a decision."""

    def on_get(self, req: Request, resp: Response, digest: str) -> None:
        """Show the proposal."""
        query.parameters(req)
        container = self._console.container
        found = container.approvals.find(digest)

        self.show(
            req,
            resp,
            "approval.html",
            approval=found,
            proposal=show_proposal(found),
            is_open=found.is_unused(container.ledger_clock()),
        )


class ApprovalConfirmation(SessionPage):
    """``/console/approvals/{digest}/confirm``: shows exactly what will be done."""

    def on_post(self, req: Request, resp: Response, digest: str) -> None:
        """Repeat the proposal and the decision, and ask for a token."""
        form = self.read_form(req, "decision", "reason")
        decision = _decision(form["decision"])
        require_reason(form["reason"])
        found = self._console.container.approvals.find(digest)

        self.show(
            req,
            resp,
            "confirm_approval.html",
            approval=found,
            proposal=show_proposal(found),
            decision=decision,
            verb=DECISIONS[decision],
            reason=form["reason"],
        )


class ApprovalDecision(SessionPage):
    """``/console/approvals/{digest}/decide``: approves or rejects, with a token."""

    def on_post(self, req: Request, resp: Response, digest: str) -> None:
        """Decide, as the API does, and show the proposal again."""
        form = self.read_form(req, "decision", "reason", "token")
        approvals = self._console.container.approvals
        decision = _decision(form["decision"])
        decide = approvals.approve if decision == "approve" else approvals.reject
        require_reason(form["reason"])
        verify = partial(_authenticate, session_of(req).subject, form["token"])
        self._console.authorization.authorize(req, _DECIDING, verify)
        decided = decide(digest, actor(req), form["reason"])

        resp.status = falcon.HTTP_SEE_OTHER
        resp.location = f"/console/approvals/{decided.digest}"


def _authenticate(subject: str, token: str, verifier: JWTVerifier) -> Principal:
    """Return the caller whom *token* identifies, who must be *subject*."""
    caller = bearer_of(token)(verifier)
    if caller.sub != subject:
        raise PermissionDeniedError("the token is of another subject than the session")
    return caller


def _decision(text: str) -> str:
    if text not in DECISIONS:
        raise InvalidInputError("must be approve or reject", field="decision")
    return text
