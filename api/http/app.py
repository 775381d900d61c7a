"""The WSGI application."""

import falcon

from api.http import problems as errors
from api.http.keys import KeyFailover, KeyRotation, Keys
from api.http.metrics import Metrics, OpenMetrics
from api.http.middleware import AuthorizationMiddleware, RequestLog
from api.http.probes import Liveness, ReadinessProbe
from api.http.refunds import Cancellation, Refund, RefundExplanation, Refunds
from api.services import Services


App = falcon.App[falcon.Request, falcon.Response]


def create_app(services: Services) -> App:
    """Return the application over *services*; nothing is opened here."""
    app = App()
    gate = AuthorizationMiddleware(
        services.authenticator, services.access, proxies=services.proxies
    )
    app.add_middleware([RequestLog(), gate])
    errors.install(app)
    app.add_route("/v1/refunds", Refunds(services.refunds))
    app.add_route("/v1/refunds/{refund_id}", Refund(services.refunds))
    app.add_route("/v1/refunds/{refund_id}/cancel", Cancellation(services.refunds))
    app.add_route(
        "/v1/refunds/{refund_id}/explain",
        RefundExplanation(services.refunds, services.explainer),
    )
    app.add_route("/v1/admin/kms/rotate", KeyRotation(services.rotation))
    app.add_route("/v1/admin/kms/relocate", KeyFailover(services.failover))
    app.add_route("/v1/admin/keys", Keys(services.ledger))
    metrics = OpenMetrics if services.metrics_open else Metrics
    app.add_route("/metrics", metrics(services.ledger, services.clock))
    app.add_route("/healthz", Liveness())
    app.add_route("/readyz", ReadinessProbe(services.readiness))
    return app
