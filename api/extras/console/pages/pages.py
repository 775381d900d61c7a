"""The pages that only show something."""

from urllib.parse import urlencode

from falcon import Request, Response

from api.actions.holds import scopes
from api.actions.proposals import find_waiting
from api.extras.console.explorers import Explorers
from api.extras.console.key_ring import read_key_ring
from api.extras.console.measurements import read_measurements
from api.extras.console.overview import read_overview
from api.extras.console.pages.search_fields import next_page
from api.extras.console.pages.session_page import Console, SessionPage, session_of
from api.extras.console.refund_details import RefundDetailsReader
from api.extras.console.refund_search import recipient_in, search
from api.extras.console.wallets import read_wallets
from api.http import query
from api.http.exports import Exports
from signer.errors import InvalidInputError, NotFoundError
from signer.model.delivery import DeliveryState
from signer.model.refund import Status, is_refund_id
from signer.ports.event_store import DeliveryFilter
from signer.ports.refund_reports import RefundFilter
from signer.refunds.wallet_nonces import MOST_OPEN


_SEARCH = ("q", "tenant", *query.REFUND_FILTERS)

_DELIVERIES = 50
_DEAD = DeliveryFilter(state=DeliveryState.DEAD)


class OverviewPage(SessionPage):
    """``/console``: the state of the service, and what needs attention."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show the overview."""
        query.parameters(req)

        container = self._console.container
        overview = read_overview(container)
        options = scopes(container)
        self.show(req, resp, "overview.html", it=overview, scopes=options)


class RefundsPage(SessionPage):
    """``/console/refunds``: finds refunds of all tenants."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show a page of the refunds that the search fields describe."""
        given = query.parameters(req, *_SEARCH, "cursor", from_form=True)
        wanted, cursor = _read_search(given), query.cursor(given)
        store = self._console.container.store
        found = search(store, given.get("q"), wanted, cursor=cursor)
        self.show(
            req,
            resp,
            "refunds.html",
            found=found,
            given=given,
            statuses=list(Status),
            networks=sorted(self._console.container.networks),
            search=urlencode({n: v for n, v in given.items() if n != "cursor"}),
            following=next_page(given, "cursor", found.next_cursor),
        )


def _read_search(given: dict[str, str]) -> RefundFilter:
    recipient = recipient_in(given.get("q"))
    return query.refund_filter(given, given.get("tenant"), recipient)


class RefundsExport(SessionPage):
    """``/console/refunds/export``: a file with what a search finds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._exports = Exports(console.container.store)

    def on_get(self, req: Request, resp: Response) -> None:
        """Send all refunds that the search fields describe."""
        given = query.parameters(req, *_SEARCH, "format", from_form=True)
        wanted = _read_search(given)
        if "q" in given and wanted.recipient is None:
            raise InvalidInputError("must be a recipient's address", field="q")
        caller = session_of(req).principal.sub
        self._exports.send(resp, wanted, query.export_format(given), caller=caller)


class RefundPage(SessionPage):
    """``/console/refunds/{refund_id}``: one refund."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._details = RefundDetailsReader(console.container)

    def on_get(self, req: Request, resp: Response, refund_id: str) -> None:
        """Show the refund, as far as the ledger and the nodes answer."""
        query.parameters(req)
        store = self._console.container.store
        refund = store.get(refund_id) if is_refund_id(refund_id) else None
        if refund is None:
            raise NotFoundError("there is no such refund")

        self.show(
            req,
            resp,
            "refund.html",
            it=self._details.read(refund),
            explorers=Explorers.of(self._console.container.networks),
        )


class KeysPage(SessionPage):
    """``/console/keys``: the keys that sign or have signed."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List the keys, the active key first."""
        query.parameters(req)

        container = self._console.container
        keys = container.store.keys()
        waiting = find_waiting(container, "/console/keys")

        ring = read_key_ring(container, keys)
        self.show(req, resp, "keys.html", keys=keys, ring=ring, waiting=waiting)


class WalletsPage(SessionPage):
    """``/console/wallets``: nonces, pauses and balances."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List the wallets beside what a worker measured."""
        query.parameters(req)
        container = self._console.container
        store, now = container.store, container.ledger_clock()
        ring = store.keys()
        measured = read_measurements(store.workers(), now)

        self.show(
            req,
            resp,
            "wallets.html",
            wallets=read_wallets(container, ring, measured),
            networks=container.networks,
            revoked={each.address for each in ring if each.revoked_at},
            stopped={stop.chain_id for stop in container.holds.stops()},
            waiting=find_waiting(container, "/console/wallets"),
            measured=measured,
            most_open=MOST_OPEN,
            explorers=Explorers.of(container.networks),
        )


class WebhooksPage(SessionPage):
    """``/console/webhooks``: what waits, and the newest deliveries."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List the deliveries."""
        query.parameters(req)
        store = self._console.container.store

        self.show(
            req,
            resp,
            "webhooks.html",
            backlog=store.webhook_backlog(),
            deliveries=store.deliveries(_DELIVERIES),
            dead=store.deliveries(_DELIVERIES, _DEAD),
        )
