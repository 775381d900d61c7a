"""The administrative routes of webhooks: list deliveries, and send events again."""

import re
from typing import Any

from falcon import Request, Response

from api.http import query
from api.http.body import read_object
from api.http.keys import AdministrativeResource
from api.request_context import actor
from api.views.deliveries import delivery_document
from signer.errors import InvalidInputError
from signer.model.delivery import DeliveryState
from signer.model.refund import is_refund_id
from signer.ports.event_store import DeliveryFilter
from signer.webhooks.delivery_admin import DeliveryAdmin


_CURSOR = re.compile(r"[0-9]{1,16}")
_TENANT = re.compile(r"[!-~]{1,128}")


class _DeliveryResource(AdministrativeResource):
    required_scope = "webhooks:read"

    def __init__(self, admin: DeliveryAdmin) -> None:
        self._admin = admin


class Deliveries(_DeliveryResource):
    """``/v1/admin/webhooks/deliveries``: lists deliveries, newest first."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List a page of those that the parameters select."""
        given = query.parameters(req, "tenant", "state", "refund", "limit", "cursor")
        page = self._admin.list(_filter(given), query.limit(given), _before(given))

        resp.media = {
            "deliveries": [delivery_document(*each) for each in page.deliveries],
            "nextCursor": None if page.next_before is None else str(page.next_before),
        }


class OneDelivery(_DeliveryResource):
    """``/v1/admin/webhooks/deliveries/{event_id}``: the delivery of one event."""

    def on_get(self, req: Request, resp: Response, event_id: str) -> None:
        """Show the delivery."""
        query.parameters(req)

        resp.media = delivery_document(*self._admin.find(event_id))


class DeliveryReplay(_DeliveryResource):
    """``/v1/admin/webhooks/deliveries/{event_id}/replay``: sends one event again."""

    required_scope = "webhooks:replay"
    takes_body = False

    def on_post(self, req: Request, resp: Response, event_id: str) -> None:
        """Make the event due again; safe to repeat."""
        query.parameters(req)
        self._admin.replay([event_id], actor(req))

        resp.media = delivery_document(*self._admin.find(event_id))


class DeadReplay(_DeliveryResource):
    """``/v1/admin/webhooks/replay``: sends what was given up again."""

    required_scope = "webhooks:replay"

    def on_post(self, req: Request, resp: Response) -> None:
        """Make given-up deliveries of one tenant due again; safe to repeat."""
        query.parameters(req)
        tenant = _tenant(read_object(req))
        result = self._admin.replay_dead(tenant, actor(req))

        resp.media = {
            "tenant": tenant,
            "count": result.count,
            "complete": result.is_complete,
        }


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


def _tenant(body: dict[str, Any]) -> str:
    if set(body) != {"tenant"}:
        raise InvalidInputError("must have tenant, and nothing else", field="body")
    name = body["tenant"]
    if not isinstance(name, str) or not _TENANT.fullmatch(name):
        raise InvalidInputError(
            "must be 1 to 128 visible ASCII characters", field="tenant"
        )
    return name
