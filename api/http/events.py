"""The routes of events: ``/v1/events``, and the keys that verify webhooks."""

import re
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from falcon import Request, Response

from api.http import query
from api.http.concurrency import WaitingRequests
from api.http.middleware import Resource
from api.http.refunds import preferred_wait
from api.request_context import tenant
from api.views.refunds import EventListDocument, WebhookKeysDocument, event_of
from signer.errors import InvalidInputError
from signer.ports.event_store import EventPage
from signer.webhooks.event_feed import EventFeed
from signer.webhooks.signatures import WebhookPublicKey


_POLL_SECONDS = 0.25

_CURSOR = re.compile(r"[0-9]{1,16}")


class Events(Resource):
    """``/v1/events``: the events of the caller's tenant, oldest first."""

    required_role = "merchant"
    is_for_tenants = True
    required_scope: ClassVar = {"GET": "refunds:read"}

    def __init__(self, feed: EventFeed, waiting: WaitingRequests) -> None:
        self._feed = feed
        self._waiting = waiting

    def on_get(self, req: Request, resp: Response) -> None:
        """List the events after a cursor; with ``Prefer: wait=N`` wait for one."""
        given = query.parameters(req, "after", "limit")
        after, limit = _after(given), query.limit(given)
        seconds = preferred_wait(req)
        page = self._feed.page(tenant(req), after, limit)
        if not page.events and seconds is not None:
            with self._waiting.admit_long(tenant(req)) as may_wait:
                if may_wait:
                    resp.set_header("Preference-Applied", f"wait={seconds:.0f}")
                    page = self._await(tenant(req), page, limit, seconds)

        events = [event_of(*each) for each in page.events]
        document = EventListDocument(events=events, next_cursor=str(page.cursor))
        resp.media = document.dump()

    def _await(
        self, owner: str, page: EventPage, limit: int, seconds: float
    ) -> EventPage:
        """Return the first page with an event, or the last one after *seconds*."""
        until = time.monotonic() + seconds
        while not page.events and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))
            page = self._feed.page(owner, page.cursor, limit)
        return page


class WebhookKeys(Resource):
    """``/v1/webhooks/keys``: the public keys of the service's signatures (RFC 7517)."""

    required_role = None

    def __init__(self, keys: Callable[[], Sequence[WebhookPublicKey]]) -> None:
        """Call *keys* for each request: outside production it may create the key."""
        self._keys = keys

    def on_get(self, req: Request, resp: Response) -> None:
        """Show all keys."""
        query.parameters(req)

        keys = [dict(key.jwk()) for key in self._keys()]
        resp.media = WebhookKeysDocument.of(None, keys=keys).dump()


def _after(given: dict[str, str]) -> int:
    text = given.get("after", "0")
    if not _CURSOR.fullmatch(text):
        raise InvalidInputError("must be the next_cursor of a page", field="after")
    return int(text)
