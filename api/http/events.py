"""The routes of events: ``/v1/events``, and the keys that verify webhooks."""

import time

from api.http.body import read_preference
from api.http.openapi import examples, problem_sets
from api.http.openapi.elements import answer, parameter, schema, text
from api.http.operations import Call, Routes
from api.http.query import counted, limit_of
from api.http.refunds import MERCHANT, READ
from api.views.refunds import EventListDocument, WebhookKeysDocument, event_of
from signer.ports.event_store import EventPage


_POLL_SECONDS = 0.25

_AFTER = counted("after", "next_cursor", 16, 0)
_LIMIT = limit_of("Events")

_PREFER = parameter(
    "Prefer",
    "header",
    text(
        """
        `wait=10`: if the page is empty, wait up to 10 seconds, at most 20, for the next
        event. Other preferences are ignored (RFC 7240).
        """
    ),
    required=False,
)

ROUTES = Routes("Refunds", MERCHANT, problem_sets.MERCHANT)
KEYS = Routes("Refunds", None, problem_sets.HTTP | problem_sets.DATABASE)


@ROUTES.get(
    "/v1/events",
    "listEvents",
    READ,
    takes=(_AFTER, _LIMIT),
    headers=[_PREFER],
    answers={
        200: answer(
            "A page of events.",
            schema("EventList"),
            {"events": [examples.EVENT], "next_cursor": "1795521600412907"},
            headers=("Preference-Applied",),
        )
    },
    problems={"cursor-expired"},
)
def _list(call: Call) -> EventListDocument:
    """
    List events.

    The events of the tenant's refunds, oldest first. Without `after` the page
    begins with the oldest ones that are kept. An event never appears before a
    cursor that was given out.
    """
    after, limit = _AFTER.read(call.given), _LIMIT.read(call.given)
    seconds = read_preference(call.req).seconds
    page = call.parts.event_feed.page(call.tenant, after, limit)
    if not page.events and seconds is not None:
        with call.parts.waiting.admit_long(call.tenant) as may_wait:
            if may_wait:
                call.resp.set_header("Preference-Applied", f"wait={seconds:.0f}")
                page = _await(call, page, limit, seconds)

    events = [event_of(*each) for each in page.events]
    return EventListDocument(events=events, next_cursor=str(page.cursor))


def _await(call: Call, page: EventPage, limit: int, seconds: float) -> EventPage:
    """Return the first page with an event, or the last one after *seconds*."""
    until = time.monotonic() + seconds
    while not page.events and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _POLL_SECONDS))
        page = call.parts.event_feed.page(call.tenant, page.cursor, limit)
    return page


@KEYS.get(
    "/v1/webhooks/keys",
    "listWebhookKeys",
    answers={200: answer("The keys.", schema("WebhookKeys"), examples.WEBHOOK_KEYS)},
    problems={"invalid-input"},
)
def _keys(call: Call) -> WebhookKeysDocument:
    """
    List the keys of webhooks.

    The public keys that verify the signatures of webhooks (RFC 7517).
    """
    # Outside production the first request may create the key.
    keys = [dict(key.jwk()) for key in call.container.webhook_public_keys]
    return WebhookKeysDocument.of(None, keys=keys)
