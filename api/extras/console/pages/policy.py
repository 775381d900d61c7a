"""The page of the rules in force."""

from falcon import Request, Response

from api.extras.console.audit_search import LOOKED_AT
from api.extras.console.pages.session_page import SessionPage
from api.extras.console.policy_limits import count_refusals, read_policies
from api.extras.console.policy_rules import (
    count_decisions,
    read_deny_list,
    read_rule_files,
)
from api.http import query


class PolicyPage(SessionPage):
    """``/console/policy``: rules, decisions, limits and what is left of them."""

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
            configuration=container.configuration_in_force.short,
            policy=container.policy,
            files=read_rule_files(container.policy),
            decisions=count_decisions(container.store),
            deny_list=read_deny_list(container.deny_list),
            refusals=count_refusals(container.store, container.row_macs),
            looked_at=LOOKED_AT,
        )
