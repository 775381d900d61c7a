"""The page of plots."""

from falcon import Request, Response

from api.extras.console.audit import verify_with
from api.extras.console.measurements import read_measurements
from api.extras.console.pages.session_page import SessionPage
from api.extras.console.periods import DAY, PERIODS
from api.extras.console.trends import (
    find_blockers,
    plot_broadcasts,
    plot_checkpoints,
    plot_refunds,
)
from api.http import query
from signer.errors import InvalidInputError


class TrendsPage(SessionPage):
    """``/console/trends``: the last day or week at a glance."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the plots."""
        given = query.parameters(req, "span", from_form=True)
        name = given.get("span", DAY.name)
        if name not in PERIODS:
            known = " or ".join(PERIODS)
            raise InvalidInputError(f"must be {known}", field="span")
        period, container = PERIODS[name], self._console.container
        ledger, now = container.store, container.ledger_clock()

        self.show(
            req,
            resp,
            "trends.html",
            now=now,
            period=period,
            periods=list(PERIODS.values()),
            plots=[
                plot_refunds(ledger, period, now),
                plot_broadcasts(ledger, period, now),
            ],
            checkpoints=plot_checkpoints(ledger, verify_with(container)),
            blockers=find_blockers(ledger),
            measured=read_measurements(ledger.workers(), now),
            networks=container.networks,
        )
