"""The page of the rules in force."""

from falcon import Request, Response

from api.console.audit_search import LOOKED_AT
from api.console.policy import count_refusals, read_policies
from api.http import query
from api.http.console.resource import SessionPage


class PolicyPage(SessionPage):
    """``/console/policy``: limits, what is left of them, and recent refusals."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the rules of all tenants and of each."""
        query.parameters(req)
        container = self._console.container

        self.show(
            req,
            resp,
            "policy.html",
            policies=read_policies(container),
            has_tenants=container.tenants.tenants is not None,
            configuration=container.configuration.short,
            refusals=count_refusals(container.store, container.row_macs),
            looked_at=LOOKED_AT,
        )
