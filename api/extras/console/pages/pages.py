"""The pages that show something."""

from urllib.parse import urlencode

from falcon import Request, Response

from api.actions.holds import scope_of, scopes
from api.actions.proposals import find_follow_up, find_waiting, show_proposal
from api.extras.console.audit import LOOKED_AT, verify_with
from api.extras.console.links import Explorers, runbook_of
from api.extras.console.overview import read_overview
from api.extras.console.pages.session_page import (
    Console,
    ConsolePage,
    SessionPage,
    next_page,
    read_sequence,
    session_of,
)
from api.extras.console.policies import (
    count_decisions,
    count_refusals,
    read_deny_list,
    read_policies,
    read_rule_files,
)
from api.extras.console.refunds import RefundDetailsReader, recipient_in, search
from api.extras.console.rendering import icon, style_sheet
from api.extras.console.signatures import PATHS, SignatureFilter, search_signatures
from api.extras.console.trends import (
    DAY,
    PERIODS,
    find_blockers,
    plot_broadcasts,
    plot_checkpoints,
    plot_refunds,
)
from api.extras.console.wallets import read_key_ring, read_measurements, read_wallets
from api.http import query
from api.http.exports import Exports
from api.views.administration import describe_stop
from api.views.codes import find_code
from signer.errors import InvalidInputError, NotFoundError
from signer.model.delivery import DeliveryState
from signer.model.refund import Status, is_refund_id
from signer.ports.event_store import DeliveryFilter
from signer.ports.refund_reports import RefundFilter
from signer.refunds.wallet_nonces import MOST_OPEN


class StyleSheet(ConsolePage):
    """``/console/console.css``: how all pages look."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer the style sheet."""
        query.parameters(req)

        resp.content_type = "text/css; charset=utf-8"
        resp.data = style_sheet()


class Icon(ConsolePage):
    """``/console/icon.svg``: what a browser shows beside the title."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Answer the icon."""
        query.parameters(req)

        resp.content_type = "image/svg+xml"
        resp.data = icon()


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


class SignaturesPage(SessionPage):
    """``/console/signatures``: what was signed, for whom, and by which rule."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show a page of the signatures that the search fields describe."""
        names = ("actor", "path", "network", "rule", "since", "until", "before")
        given = query.parameters(req, *names, from_form=True)
        wanted = SignatureFilter(
            given.get("actor"),
            given.get("path"),
            given.get("network"),
            given.get("rule"),
            query.moment(given, "since"),
            query.moment(given, "until"),
        )
        container = self._console.container
        networks = container.networks
        found = search_signatures(
            container.store,
            container.row_macs,
            networks,
            wanted,
            read_sequence(given),
        )
        self.show(
            req,
            resp,
            "signatures.html",
            found=found,
            given=given,
            following=next_page(given, "before", found.before),
            paths=PATHS,
            networks=list(networks),
            policy=container.policy.short_hash,
            explorers=Explorers.of(networks),
        )


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
