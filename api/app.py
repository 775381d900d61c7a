"""The WSGI application."""

import falcon

from api import errors
from api.administration import KeyRelocation, KeyRotation, Keys
from api.metrics import Metrics, OpenMetrics
from api.middleware import Gate, RequestLog
from api.overrides import require_our_gunicorn
from api.resources import (
    Cancellation,
    Liveness,
    ReadinessProbe,
    Refund,
    RefundExplanation,
    Refunds,
)
from api.services import Services


App = falcon.App[falcon.Request, falcon.Response]


def create_app(services: Services) -> App:
    """Return the application over *services*; nothing is opened here."""
    app = App()
    gate = Gate(services.authenticator, services.access, proxies=services.proxies)
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
    app.add_route("/v1/admin/kms/relocate", KeyRelocation(services.relocation))
    app.add_route("/v1/admin/keys", Keys(services.ledger))
    metrics = OpenMetrics if services.metrics_open else Metrics
    app.add_route("/metrics", metrics(services.ledger, services.clock))
    app.add_route("/healthz", Liveness())
    app.add_route("/readyz", ReadinessProbe(services.readiness))
    return app


def get_app() -> App:
    """
    Return the application as the environment configures it.

    gunicorn calls it in each worker, after the fork: ``api.app:get_app()``.

    Raises:
        ConfigurationError: The guard refuses, or gunicorn is not as we have it.
        SystemExit: It is another server, or gunicorn without our settings.
    """
    require_our_gunicorn()
    from api.bootstrap import build_services  # noqa: PLC0415  Opens the backends.

    return create_app(build_services())
