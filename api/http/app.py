"""The WSGI application."""

import falcon

from api.container import Container
from api.extension import find_routes
from api.http import problems
from api.http.allowances import NetworksResource, RefundPreview, Tokens
from api.http.concurrency import ConcurrencyMiddleware, WaitingRequests
from api.http.documentation import add_documentation
from api.http.events import Events, WebhookKeys
from api.http.exports import Exports
from api.http.middleware import AuthorizationMiddleware, RequestLog
from api.http.probes import Liveness, ReadinessProbe
from api.http.refund_batch import RefundBatch
from api.http.refunds import (
    Cancellation,
    RefundExplanation,
    RefundExport,
    RefundResource,
    Refunds,
)
from signer.config.settings import Role
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.preview import Previewer
from signer.webhooks.event_feed import EventFeed


App = falcon.App[falcon.Request, falcon.Response]


def create_app(container: Container) -> App:
    """Return the application over the parts of *container*, with its role's routes."""
    app = App()
    authorization = AuthorizationMiddleware(
        container.authenticator, container.access, proxies=container.proxies
    )
    threads, tenants = container.settings.threads, container.tenants
    concurrency = ConcurrencyMiddleware(threads, tenants)
    waiting = WaitingRequests(threads, tenants)
    log = RequestLog(container.shared_meter.answered)
    app.add_middleware([log, authorization, concurrency])
    problems.install(app)
    role = container.settings.serve_role
    if role in {Role.ALL, Role.REFUNDS}:
        _add_refunds(app, container, waiting)
    if role in {Role.ALL, Role.ADMIN}:
        from api.http.administration import add_administration  # noqa: PLC0415

        add_administration(app, container)
    for add_routes in find_routes(role):
        add_routes(app, container, authorization, waiting)
    app.add_route("/healthz", Liveness())
    app.add_route("/readyz", ReadinessProbe(container.readiness))
    add_documentation(app)
    return app


def _add_refunds(app: App, container: Container, waiting: WaitingRequests) -> None:
    refunds = container.refunds
    store = container.store
    app.add_route("/v1/refunds", Refunds(refunds, waiting, store))
    app.add_route("/v1/refunds/export", RefundExport(Exports(store)))
    app.add_route("/v1/refunds/batch", RefundBatch(refunds, container.access))
    previewer = Previewer(
        store,
        store,
        container.tenants_chains,
        wallets=container.wallets,
        clock=container.ledger_clock,
        tenants=container.tenants,
        gas_price_check=GasPriceCheck(store, container.alerts, container.ledger_clock),
        policy=container.payment_policy,
    )
    app.add_route("/v1/refunds/preview", RefundPreview(previewer, waiting))
    app.add_route("/v1/refunds/{refund_id}", RefundResource(refunds, waiting))
    app.add_route("/v1/refunds/{refund_id}/cancel", Cancellation(refunds, waiting))
    app.add_route(
        "/v1/refunds/{refund_id}/explain",
        RefundExplanation(refunds, container.explainer, waiting),
    )
    app.add_route("/v1/tokens", Tokens(container.networks, container.tenants))
    app.add_route(
        "/v1/networks", NetworksResource(container.networks, container.tenants)
    )
    retention, clock = container.settings.event_retention, container.ledger_clock
    app.add_route("/v1/events", Events(EventFeed(store, retention, clock), waiting))
    keys = WebhookKeys(lambda: container.webhook_public_keys)
    app.add_route("/v1/webhooks/keys", keys)
