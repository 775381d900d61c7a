"""The administrative routes of changes that need two administrators."""

from collections.abc import Callable

from falcon import Request, Response

from api.http import query
from api.http.body import read_object
from api.http.keys import AdministrativeResource
from api.request_context import actor
from api.views.approvals import approval_document, list_document
from signer.approvals import Approvals
from signer.errors import InvalidInputError
from signer.model.approval import Approval
from signer.model.audit_record import Actor


class ApprovalList(AdministrativeResource):
    """``/v1/admin/approvals``: lists what waits for a decision."""

    required_scope = "approvals:read"

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    def on_get(self, req: Request, resp: Response) -> None:
        """List the proposals that wait or are approved: administrators' first."""
        start = query.place(query.parameters(req, "cursor"))

        resp.media = list_document(self._approvals.list(start))


class _Decision(AdministrativeResource):
    """Decides about one proposal."""

    def __init__(self, decide: Callable[[str, Actor, str], Approval]) -> None:
        self._decide = decide

    def on_post(self, req: Request, resp: Response, digest: str) -> None:
        """Decide, for the reason in the body."""
        query.parameters(req)
        body = read_object(req)
        if set(body) != {"reason"} or not isinstance(body["reason"], str):
            raise InvalidInputError("must have reason, a string", field="body")

        resp.media = approval_document(self._decide(digest, actor(req), body["reason"]))


class Approving(_Decision):
    """``/v1/admin/approvals/{digest}/approve``."""

    required_scope = "approvals:decide"


class Rejecting(_Decision):
    """``/v1/admin/approvals/{digest}/reject``."""

    required_scope = "approvals:decide"


class BreakingGlass(_Decision):
    """``/v1/admin/approvals/{digest}/break-glass``: approves alone, and alerts."""

    required_scope = "approvals:break-glass"
