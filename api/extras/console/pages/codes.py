"""The pages of codes."""

from falcon import Request, Response

from api.extras.console.codes import runbook_of
from api.extras.console.pages.session_page import SessionPage
from api.http import query
from api.views.codes import find_code
from signer.errors import NotFoundError


class CodePage(SessionPage):
    """``/console/codes/{code}``: what a code means, what to do, and its runbook."""

    def on_get(self, req: Request, resp: Response, code: str) -> None:
        """Show the code."""
        query.parameters(req)
        entry = find_code(code)
        if entry is None:
            raise NotFoundError("there is no such code")

        runbook = runbook_of(code, self._console.container.settings.runbook_url)
        self.show(req, resp, "code.html", entry=entry, runbook=runbook)
