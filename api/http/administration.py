"""The routes of administrators; a process that serves refunds only does not load it."""

from typing import TYPE_CHECKING

from api.container import Container
from api.http.approvals import (
    ApprovalList,
    Approving,
    BreakingGlass,
    Rejecting,
)
from api.http.console.routes import add_console
from api.http.deliveries import (
    DeadReplay,
    Deliveries,
    DeliveryReplay,
    OneDelivery,
)
from api.http.keys import KeyFailover, KeyReinstatement, KeyRotation, Keys
from api.http.metrics import Metrics, OpenMetrics
from api.http.middleware import AuthorizationMiddleware
from api.http.stops import SigningResume, SigningStop, Stops
from api.http.tenants import TenantBlocking, TenantUnblocking
from api.metrics.ledger import LedgerCollector
from api.metrics.process import server_figures
from api.metrics.workers import WorkersCollector


if TYPE_CHECKING:
    from api.http.app import App


def add_administration(
    app: "App", container: Container, authorization: AuthorizationMiddleware
) -> None:
    """Add the routes under ``/v1/admin`` and ``/console``, and ``/metrics``."""
    app.add_route("/v1/admin/kms/rotate", KeyRotation(container.rotation))
    app.add_route("/v1/admin/kms/failover", KeyFailover(container.failover))
    app.add_route("/v1/admin/keys", Keys(container.store))
    reinstating = KeyReinstatement(container.reinstatement)
    app.add_route("/v1/admin/keys/{address}/reinstate", reinstating)
    tenants = container.tenant_admin
    app.add_route("/v1/admin/tenants/{tenant}/block", TenantBlocking(tenants))
    app.add_route("/v1/admin/tenants/{tenant}/unblock", TenantUnblocking(tenants))
    app.add_route("/v1/admin/stop", SigningStop(container.kill_switch))
    app.add_route("/v1/admin/resume", SigningResume(container.kill_switch))
    app.add_route("/v1/admin/stops", Stops(container.kill_switch))
    approvals = container.approvals
    app.add_route("/v1/admin/approvals", ApprovalList(approvals))
    app.add_route("/v1/admin/approvals/{digest}/approve", Approving(approvals.approve))
    app.add_route("/v1/admin/approvals/{digest}/reject", Rejecting(approvals.reject))
    app.add_route(
        "/v1/admin/approvals/{digest}/break-glass",
        BreakingGlass(approvals.break_glass),
    )
    _add_webhooks(app, container)
    app.add_route("/metrics", _open_metrics(container))
    add_console(app, container, authorization)


def _open_metrics(container: Container) -> Metrics:
    signing, store = container.checkpoint_settings, container.store
    ledger = LedgerCollector(
        store,
        container.ledger_clock,
        None if signing is None else signing.verify,
        networks=container.networks,
        tenants=container.tenants.tenants or (),
        rules=lambda: [rule.name for rule in container.policy.rules],
    )
    workers = WorkersCollector(store, container.ledger_clock)
    resource = OpenMetrics if container.settings.metrics_open else Metrics
    return resource([ledger, workers], server_figures(store.connections))


def _add_webhooks(app: "App", container: Container) -> None:
    admin = container.delivery_admin
    app.add_route("/v1/admin/webhooks/deliveries", Deliveries(admin))
    app.add_route("/v1/admin/webhooks/deliveries/{event_id}", OneDelivery(admin))
    app.add_route(
        "/v1/admin/webhooks/deliveries/{event_id}/replay", DeliveryReplay(admin)
    )
    app.add_route("/v1/admin/webhooks/replay", DeadReplay(admin))
