"""
The routes of administrators: their actions, and lists of what actions change.

A process that serves refunds only does not load it.
"""

from typing import TYPE_CHECKING

from api.actions.catalogue import ACTIONS
from api.container import Container
from api.http.actions import ADMINISTRATION, ActionRoute
from api.http.metrics import Metrics, OpenMetrics
from api.http.openapi import problem_sets
from api.http.openapi.elements import answer, schema, text
from api.http.operations import Call, Routes
from api.http.query import DELIVERY_FILTERS, PLACE, counted, limit_of
from api.metrics.ledger import LedgerCollector
from api.metrics.process import server_figures
from api.views.administration import (
    ApprovalListDocument,
    DeliveryDocument,
    DeliveryListDocument,
    KeyListDocument,
    StopsDocument,
    delivery_of,
)
from api.views.document import EVENT_ID_PATTERN
from signer.ports.event_store import DeliveryFilter


if TYPE_CHECKING:
    from api.http.app import App
    from api.http.operations import Parts


ROUTES = Routes(
    "Administration",
    ADMINISTRATION,
    problem_sets.ADMINISTRATOR,
    names={"event_id": text("The event's id.", pattern=EVENT_ID_PATTERN)},
)

_LIMIT = limit_of("Deliveries")
_BEFORE = counted("cursor", "nextCursor", 16)


def add_administration(app: "App", parts: "Parts") -> None:
    """Add the routes under ``/v1/admin``, and ``/metrics``."""
    for action in ACTIONS:
        app.add_route(action.path, ActionRoute(action, parts.container))
    ROUTES.add_to(app, parts)
    app.add_route("/metrics", _open_metrics(parts.container))


def _open_metrics(container: Container) -> Metrics:
    signing, store = container.checkpoint_settings, container.store
    ledger = LedgerCollector(
        store,
        container.ledger_clock,
        None if signing is None else signing.verify,
        networks=container.networks,
        tenants=container.tenants.tenants or (),
        rules=lambda: [rule.name for rule in container.policy.rules],
        environ=container.environ,
    )
    resource = OpenMetrics if container.settings.metrics_open else Metrics
    return resource([ledger], server_figures(store.connections))


@ROUTES.get(
    "/v1/admin/keys",
    "listKeys",
    "keys:read",
    answers={200: answer("The key ring.", schema("KeyList"))},
)
def _keys(call: Call) -> KeyListDocument:
    """
    List the keys.

    The keys that sign or have signed.
    """
    return KeyListDocument.of(None, keys=list(call.container.store.keys()))


@ROUTES.get(
    "/v1/admin/stops",
    "listStops",
    "signing:stop",
    answers={200: answer("The stops.", schema("Stops"))},
)
def _stops(call: Call) -> StopsDocument:
    """
    List the stops.

    The stops that are in force.
    """
    holds = call.container.holds
    return StopsDocument.of_holds(holds.stops(), holds.names())


@ROUTES.get(
    "/v1/admin/approvals",
    "listApprovals",
    "approvals:read",
    takes=(PLACE,),
    answers={200: answer("The proposals.", schema("ApprovalList"))},
)
def _approvals(call: Call) -> ApprovalListDocument:
    """
    List what waits for approval.

    Changes that need two administrators, and wait or are approved.
    """
    found = call.container.approvals.list(PLACE.read(call.given))
    return ApprovalListDocument.of(found)


@ROUTES.get(
    "/v1/admin/webhooks/deliveries",
    "listDeliveries",
    "webhooks:read",
    takes=(*DELIVERY_FILTERS, _LIMIT, _BEFORE),
    answers={200: answer("A page of deliveries.", schema("DeliveryList"))},
)
def _deliveries(call: Call) -> DeliveryListDocument:
    """
    List deliveries of webhooks.

    Newest first; each parameter selects.
    """
    given, admin = call.given, call.container.delivery_admin
    wanted = DeliveryFilter(*(each.read(given) for each in DELIVERY_FILTERS))
    page = admin.list(wanted, _LIMIT.read(given), _BEFORE.read(given))
    return DeliveryListDocument(
        deliveries=[delivery_of(*each) for each in page.deliveries],
        nextCursor=None if page.next_before is None else str(page.next_before),
    )


@ROUTES.get(
    "/v1/admin/webhooks/deliveries/{event_id}",
    "getDelivery",
    "webhooks:read",
    answers={200: answer("The delivery.", schema("Delivery"))},
    problems={"not-found"},
)
def _delivery(call: Call, event_id: str) -> DeliveryDocument:
    """
    Get the delivery of an event.

    Whether the webhook has it, and why not.
    """
    return delivery_of(*call.container.delivery_admin.find(event_id))
