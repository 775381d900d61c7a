"""
The routes of administrators: their actions, and lists of what actions change.

A process that serves refunds only does not load it.
"""

import re
from typing import TYPE_CHECKING

from falcon import Request, Response

from api.actions.action import ADMINISTRATORS
from api.actions.catalogue import ACTIONS
from api.container import Container
from api.http import query
from api.http.actions import ActionRoute
from api.http.metrics import Metrics, OpenMetrics
from api.http.middleware import Resource
from api.metrics.ledger import LedgerCollector
from api.metrics.process import server_figures
from api.metrics.workers import WorkersCollector
from api.views.administration import (
    ApprovalListDocument,
    KeyDocument,
    StopsDocument,
    delivery_document,
)
from signer.errors import InvalidInputError
from signer.model.delivery import DeliveryState
from signer.model.refund import is_refund_id
from signer.ports.event_store import DeliveryFilter


if TYPE_CHECKING:
    from api.http.app import App


_CURSOR = re.compile(r"[0-9]{1,16}")


def add_administration(app: "App", container: Container) -> None:
    """Add the routes under ``/v1/admin``, and ``/metrics``."""
    for action in ACTIONS:
        app.add_route(action.path, ActionRoute(action, container))
    app.add_route("/v1/admin/keys", Keys(container))
    app.add_route("/v1/admin/stops", Stops(container))
    app.add_route("/v1/admin/approvals", ApprovalList(container))
    app.add_route("/v1/admin/webhooks/deliveries", Deliveries(container))
    app.add_route("/v1/admin/webhooks/deliveries/{event_id}", OneDelivery(container))
    app.add_route("/metrics", _open_metrics(container))


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


class _List(Resource):
    """A route for administrators that changes nothing."""

    required_role = ADMINISTRATORS

    def __init__(self, container: Container) -> None:
        self._container = container


class Keys(_List):
    """``/v1/admin/keys``: lists the keys that sign or have signed."""

    required_scope = "keys:read"
    is_administrative = True

    def on_get(self, req: Request, resp: Response) -> None:
        """List the keys, the active key first."""
        query.parameters(req)
        ring = self._container.store.keys()

        resp.media = {"keys": [KeyDocument.of(key).dump() for key in ring]}


class Stops(_List):
    """``/v1/admin/stops``: lists the stops in force."""

    required_scope = "signing:stop"
    is_administrative = True

    def on_get(self, req: Request, resp: Response) -> None:
        """List the stops, a stop of everything first."""
        query.parameters(req)
        switch = self._container.holds

        resp.media = StopsDocument.build(switch.stops(), switch.names())


class ApprovalList(_List):
    """``/v1/admin/approvals``: lists what waits for a decision."""

    required_scope = "approvals:read"
    is_administrative = True

    def on_get(self, req: Request, resp: Response) -> None:
        """List the proposals that wait or are approved: administrators' first."""
        start = query.place(query.parameters(req, "cursor"))
        found = self._container.approvals.list(start)

        resp.media = ApprovalListDocument.of(found).dump()


class Deliveries(_List):
    """``/v1/admin/webhooks/deliveries``: lists deliveries, newest first."""

    required_scope = "webhooks:read"
    is_administrative = True

    def on_get(self, req: Request, resp: Response) -> None:
        """List a page of those that the parameters select."""
        given = query.parameters(req, "tenant", "state", "refund", "limit", "cursor")
        admin = self._container.delivery_admin
        page = admin.list(_filter(given), query.limit(given), _before(given))

        resp.media = {
            "deliveries": [delivery_document(*each) for each in page.deliveries],
            "nextCursor": None if page.next_before is None else str(page.next_before),
        }


class OneDelivery(_List):
    """``/v1/admin/webhooks/deliveries/{event_id}``: the delivery of one event."""

    required_scope = "webhooks:read"
    is_administrative = True

    def on_get(self, req: Request, resp: Response, event_id: str) -> None:
        """Show the delivery."""
        query.parameters(req)
        found = self._container.delivery_admin.find(event_id)

        resp.media = delivery_document(*found)


def _filter(given: dict[str, str]) -> DeliveryFilter:
    state, refund_id = given.get("state"), given.get("refund")
    if state is not None and state not in set(DeliveryState):
        raise InvalidInputError(
            f"must be one of {', '.join(DeliveryState)}", field="state"
        )
    if refund_id is not None and not is_refund_id(refund_id):
        raise InvalidInputError("must be the id of a refund", field="refund")
    return DeliveryFilter(
        given.get("tenant"), None if state is None else DeliveryState(state), refund_id
    )


def _before(given: dict[str, str]) -> int | None:
    text = given.get("cursor")
    if text is None:
        return None
    if not _CURSOR.fullmatch(text):
        raise InvalidInputError("must be the nextCursor of a page", field="cursor")
    return int(text)
