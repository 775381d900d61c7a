"""The WSGI application."""

import falcon

from api.container import Container
from api.http import problems
from api.http.allowances import NetworksResource, RefundPreview, Tokens
from api.http.concurrency import ConcurrencyMiddleware
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
from api.http.waiting_requests import WaitingRequests
from signer.config.settings import Role


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
    if role in {Role.ALL, Role.SIGN}:
        from api.http.signing_routes import add_signing  # noqa: PLC0415

        add_signing(app, container, waiting)
    if role in {Role.ALL, Role.ADMIN}:
        from api.http.administration import add_administration  # noqa: PLC0415

        add_administration(app, container, authorization)
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
    app.add_route("/v1/refunds/preview", RefundPreview(container.previewer, waiting))
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
    events = Events(container.event_feed, waiting)
    app.add_route("/v1/events", events)
    keys = WebhookKeys(lambda: container.webhook_public_keys)
    app.add_route("/v1/webhooks/keys", keys)
