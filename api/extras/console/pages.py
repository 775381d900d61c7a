"""The pages that show something, each with what it reads, and the console's routes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import falcon
from falcon import Request, Response

from api.actions.action import EVERY
from api.actions.catalogue import FORMS
from api.actions.holds import scope_of, scopes, tokens
from api.actions.proposals import find_follow_up, find_waiting, show_proposal
from api.container import Container
from api.extras.console import PREFIX, is_console
from api.extras.console.audit import (
    LOOKED_AT,
    PATHS,
    RecordFilter,
    SignatureFilter,
    read_audit,
    search_records,
    show_signature,
    verify_with,
)
from api.extras.console.overview import read_overview
from api.extras.console.policies import (
    count_decisions,
    count_refusals,
    read_deny_list,
    read_policies,
    read_rule_files,
)
from api.extras.console.refunds import RefundDetailsReader, recipient_in, search
from api.extras.console.rendering import Explorers, icon, runbook_of, style_sheet
from api.extras.console.resources import (
    MOST_EXPORTED,
    ActionConfirmation,
    ActionExecution,
    ActionForm,
    AuditExport,
    Console,
    Login,
    Logout,
    ReadingPage,
    RefundsExport,
    StaticFile,
    show,
)
from api.extras.console.trends import (
    DAY,
    PERIODS,
    find_blockers,
    plot_broadcasts,
    plot_checkpoints,
    plot_refunds,
)
from api.extras.console.wallets import (
    find_open_vaults,
    read_key_ring,
    read_measurements,
    read_wallets,
)
from api.http import problems, query
from api.http.concurrency import WaitingRequests
from api.http.middleware import AuthorizationMiddleware
from api.request_context import request_id
from api.views.administration import describe_stop, evidence_line
from api.views.codes import find_code
from signer.errors import AuthenticationError, InvalidInputError, NotFoundError
from signer.model.approvers import Consent, Statement
from signer.model.event import DeliveryState
from signer.model.refund import Status, is_refund_id
from signer.ports.event_store import DeliveryFilter
from signer.ports.refund_reports import RefundFilter
from signer.refunds.wallet_reconciliation import MOST_OPEN


if TYPE_CHECKING:
    from api.http.app import App


Given = Mapping[str, str]
"""The query parameters of a page."""

Shown = Mapping[str, object]
"""The values of its template."""

_PAGES: dict[str, tuple[str, tuple[str, ...], Callable[..., Shown]]] = {}

_SEARCH = ("q", "tenant", *query.FILTER_NAMES)
_MOST_DIGITS = 15
_DELIVERIES = 50
_DEAD = DeliveryFilter(state=DeliveryState.DEAD)


def _page(path: str, template: str, *names: str) -> Callable[..., Any]:
    """Make of a function, which returns the values of *template*, a page at *path*."""

    def add(read: Callable[..., Shown]) -> Callable[..., Shown]:
        _PAGES[path] = template, names, read
        return read

    return add


@_page("", "overview.html")
def _overview(container: Container, _: Given) -> Shown:
    """Show the state of the service, and what needs attention."""
    options = {"scopes": scopes(container), "tokens": tokens(container)}
    return {**read_overview(container), **options}


@_page("/refunds", "refunds.html", *_SEARCH, "cursor")
def _refunds(container: Container, given: Given) -> Shown:
    """Show a page of the refunds of all tenants that the search fields describe."""
    wanted, cursor = _read_search(given), query.CURSOR.read(given)
    found = search(container.store, given.get("q"), wanted, cursor=cursor)
    return {
        "found": found,
        "given": given,
        "statuses": list(Status),
        "networks": sorted(container.networks),
        "search": urlencode({n: v for n, v in given.items() if n != "cursor"}),
        "following": _next_page(given, "cursor", found.next_cursor),
    }


def _read_search(given: Given) -> RefundFilter:
    recipient = recipient_in(given.get("q"))
    return query.refund_filter(given, given.get("tenant"), recipient)


def _refund(
    details: RefundDetailsReader, container: Container, _: Given, refund_id: str
) -> Shown:
    """Show a refund, as far as the ledger and the nodes answer."""
    refund = container.store.get(refund_id) if is_refund_id(refund_id) else None
    if refund is None:
        raise NotFoundError("there is no such refund")
    return {**details.read(refund), "explorers": Explorers.of(container.networks)}


@_page("/approvals", "approvals.html", "cursor")
def _approvals(container: Container, given: Given) -> Shown:
    """List a page of what waits for a decision: administrators' proposals first."""
    found = container.approvals.list(query.PLACE.read(given))
    proposals = [show_proposal(each) for each in found.approvals]
    return {"found": found, "proposals": proposals, "now": container.ledger_clock()}


@_page("/approvals/{digest}", "approval.html")
def _approval(container: Container, _: Given, digest: str) -> Shown:
    """Show a proposal, and the change to repeat once it is approved."""
    now, found = container.ledger_clock(), container.approvals.find(digest)
    names, approvers = container.holds.names(), container.approvers
    return {
        "approval": found,
        "proposal": show_proposal(found),
        "signers": approvers
        and [
            (name, approvers.text(name, Consent.APPROVE, Statement.of(found)))
            for name in approvers.groups
        ],
        "link": approvers and approvers.link,
        "is_open": found.is_unused(now),
        "follow_up": find_follow_up(found, names) if found.is_usable(now) else None,
    }


@_page("/keys", "keys.html")
def _keys(container: Container, _: Given) -> Shown:
    """List the keys that sign or have signed, the active key first."""
    keys = container.store.keys()
    waiting = find_waiting(container, "/console/keys")
    measured = read_measurements(container.store.workers(), container.ledger_clock())
    return {
        "keys": keys,
        "ring": read_key_ring(container, keys),
        "open_vaults": find_open_vaults(container, keys, measured),
        "waiting": waiting,
    }


@_page("/wallets", "wallets.html")
def _wallets(container: Container, _: Given) -> Shown:
    """List nonces and pauses of the wallets beside what a worker measured."""
    store, now = container.store, container.ledger_clock()
    ring = store.keys()
    measured = read_measurements(store.workers(), now)
    return {
        "wallets": read_wallets(container, ring, measured),
        "networks": container.networks,
        "revoked": {each.address for each in ring if each.revoked_at},
        "stopped": {
            stop.chain_id for stop in container.holds.stops() if not stop.token
        },
        "waiting": find_waiting(container, "/console/wallets"),
        "measured": measured,
        "most_open": MOST_OPEN,
        "explorers": Explorers.of(container.networks),
    }


@_page(
    "/signatures",
    "signatures.html",
    *("actor", "path", "network", "rule", "since", "until", "before"),
)
def _signatures(container: Container, given: Given) -> Shown:
    """Show a page of the signatures that the search fields describe."""
    wanted = SignatureFilter(
        actor=given.get("actor"),
        path=given.get("path"),
        network=given.get("network"),
        rule=given.get("rule"),
        **_period(given),
    )
    networks = container.networks
    store = container.store
    found = search_records(store, container.row_macs, wanted, _sequence(given))
    genuine = [each for each in found.records if each.fields is not None]
    return {
        "found": found,
        "signatures": [show_signature(each, networks) for each in genuine],
        "given": given,
        "following": _next_page(given, "before", found.before),
        "paths": PATHS,
        "networks": list(networks),
        "policy": container.policy.short_hash,
        "explorers": Explorers.of(networks),
    }


@_page(
    "/audit",
    "audit.html",
    *("event", "actor", "refund", "since", "until", "before"),
)
def _audit(container: Container, given: Given) -> Shown:
    """Show the state of the chain, and the records that the search fields describe."""
    wanted = RecordFilter(
        event=given.get("event"),
        actor=given.get("actor"),
        refund_id=given.get("refund"),
        **_period(given),
    )
    store = container.store
    found = search_records(store, container.row_macs, wanted, _sequence(given))
    return {
        "it": read_audit(container),
        "found": found,
        "given": given,
        "following": _next_page(given, "before", found.before),
        "checkpoints": plot_checkpoints(store, verify_with(container)),
        "most_exported": MOST_EXPORTED,
    }


@_page("/policy", "policy.html")
def _policy(container: Container, _: Given) -> Shown:
    """Show rules, decisions, and limits with what is left of them."""
    return {
        "policies": read_policies(container),
        "has_tenants": container.tenants.tenants is not None,
        "configuration": container.configuration_in_force.short,
        "policy": container.policy,
        "files": read_rule_files(container.policy),
        "decisions": count_decisions(container.store),
        "deny_list": read_deny_list(container.deny_list),
        "refusals": count_refusals(container.store, container.row_macs),
        "looked_at": LOOKED_AT,
    }


@_page("/trends", "trends.html", "span")
def _trends(container: Container, given: Given) -> Shown:
    """Show the last day or week at a glance."""
    name = given.get("span", DAY.name)
    if name not in PERIODS:
        raise InvalidInputError(f"must be {' or '.join(PERIODS)}", field="span")
    period, ledger, now = PERIODS[name], container.store, container.ledger_clock()
    return {
        "now": now,
        "period": period,
        "periods": list(PERIODS.values()),
        "plots": [
            plot(ledger, period, now) for plot in (plot_refunds, plot_broadcasts)
        ],
        "checkpoints": plot_checkpoints(ledger, verify_with(container)),
        "blockers": find_blockers(ledger),
        "measured": read_measurements(ledger.workers(), now),
        "networks": container.networks,
    }


@_page("/codes/{code}", "code.html")
def _code(container: Container, _: Given, code: str) -> Shown:
    """Show what a code means, what to do, and its runbook."""
    entry = find_code(code)
    if entry is None:
        raise NotFoundError("there is no such code")
    return {"entry": entry, "runbook": runbook_of(code, container.settings.runbook_url)}


@_page("/webhooks", "webhooks.html")
def _webhooks(container: Container, _: Given) -> Shown:
    """List what waits, and the newest deliveries."""
    store = container.store
    return {
        "backlog": store.webhook_backlog(),
        "deliveries": store.deliveries(_DELIVERIES),
        "dead": store.deliveries(_DELIVERIES, _DEAD),
    }


@_page("/stops", "stops.html")
def _stops(container: Container, _: Given) -> Shown:
    """List the stops, the tenants with their blocks, and the paused wallets."""
    holds = container.holds
    in_force, names = holds.stops(), holds.names()
    return {
        "in_force": in_force,
        "sentences": [describe_stop(stop, names) for stop in in_force],
        "values": [
            {"network": scope_of(stop.chain_id, names), "asset": stop.token or EVERY}
            for stop in in_force
        ],
        "names": names,
        "scopes": scopes(container),
        "tokens": tokens(container),
        "evidence": evidence_line,
        "tenants": holds.tenants(),
        "waiting": find_waiting(container, "/console/stops"),
        "paused": [each for each in container.store.wallets() if each.is_paused],
    }


def _period(given: Given) -> dict[str, Any]:
    return {name: query.moment(given, name) for name in ("since", "until")}


def _sequence(given: Given) -> int | None:
    """Return the number before which a page begins; InvalidInputError if it is none."""
    text = given.get("before")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidInputError("must be a sequence number", field="before")
    return int(text)


def _next_page(given: Given, name: str, start: str | int | None) -> str | None:
    """Return the query of the page that begins at *start*; None if there is none."""
    return None if start is None else urlencode({**given, name: start})


def add_console(
    app: "App",
    container: Container,
    authorization: AuthorizationMiddleware,
    _: WaitingRequests,
) -> None:
    """Add the console to *app*, which already answers errors with problems."""
    console = Console(container, authorization)
    css, svg = style_sheet(), icon()
    refund = partial(_refund, RefundDetailsReader(container))
    for path, resource in {
        "/console.css": StaticFile(console, "text/css; charset=utf-8", css),
        "/icon.svg": StaticFile(console, "image/svg+xml", svg),
        "/login": Login(console),
        "/logout": Logout(console),
        "/refunds/export": RefundsExport(console, _SEARCH, _read_search),
        "/refunds/{refund_id}": ReadingPage(console, "refund.html", (), refund),
        "/audit/export": AuditExport(console),
        **{path: ReadingPage(console, *parts) for path, parts in _PAGES.items()},
    }.items():
        app.add_route(f"{PREFIX}{path}", resource)
    for action in FORMS:
        # A route of its own each, so that the audit of a refusal names the action.
        path = f"{PREFIX}/changes/{action.name}"
        app.add_route(path, ActionForm(console, action))
        app.add_route(f"{path}/confirm", ActionConfirmation(console, action))
        app.add_route(f"{path}/make", ActionExecution(console, action))
    app.add_error_handler((Exception, falcon.HTTPError), _respond)


def _respond(
    req: Request, resp: Response, error: Exception, params: dict[str, Any]
) -> None:
    problems.respond(req, resp, error, params)
    if not is_console(req.uri_template):
        return
    problem = problems.problem_of(error)
    resp.data = None
    values = {
        "problem": problem,
        "entry": find_code(problem.code),
        "request_id": request_id(req),
        # The token of a change is another one than that of the session.
        "is_logged_out": isinstance(error, AuthenticationError)
        and "session" not in req.context,
    }
    show(req, resp, "error.html", values)
