"""The pages of proposals; ``api.actions.approvals`` has the decisions."""

from falcon import Request, Response

from api.actions.proposals import find_follow_up, show_proposal
from api.extras.console.pages.session_page import SessionPage
from api.http import query


class ApprovalsPage(SessionPage):
    """``/console/approvals``: what waits for a decision."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List a page of the proposals: administrators' first."""
        start = query.place(query.parameters(req, "cursor"))
        found = self._console.container.approvals.list(start)

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
        """Show the proposal, and the change to repeat once it is approved."""
        query.parameters(req)
        container = self._console.container
        now, found = container.ledger_clock(), container.approvals.find(digest)
        follow_up = None
        if found.is_usable(now):
            follow_up = find_follow_up(found, container.holds.names())

        self.show(
            req,
            resp,
            "approval.html",
            approval=found,
            proposal=show_proposal(found),
            is_open=found.is_unused(now),
            follow_up=follow_up,
        )
