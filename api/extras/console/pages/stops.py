"""The page of everything that is stopped: networks, tenants and wallets."""

from falcon import Request, Response

from api.actions.holds import scope_of, scopes
from api.actions.proposals import find_waiting
from api.extras.console.pages.session_page import SessionPage
from api.http import query
from api.views.administration import describe_stop


class StopsPage(SessionPage):
    """``/console/stops``: what is stopped, and how to stop and resume."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List the stops, the tenants with their blocks, and the paused wallets."""
        query.parameters(req)
        container = self._console.container
        switch = container.holds
        in_force, names = switch.stops(), switch.names()

        self.show(
            req,
            resp,
            "stops.html",
            in_force=in_force,
            sentences=[describe_stop(stop, names) for stop in in_force],
            values=[scope_of(stop.chain_id, names) for stop in in_force],
            names=names,
            scopes=scopes(container),
            tenants=container.holds.tenants(),
            waiting=find_waiting(container, "/console/stops"),
            paused=[each for each in container.store.wallets() if each.is_paused],
        )
