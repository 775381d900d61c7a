"""What the service sends to a tenant's webhook: the section ``webhooks``."""

from importlib.resources import files

from api.http.openapi import examples
from api.http.openapi.elements import Element, parameter, schema, text
from api.views.document import EVENT_ID_PATTERN


TAG = "Webhooks"

GUIDE = files("api.http.openapi").joinpath("webhook_guide.md").read_text("utf-8")


def _header(name: str, about: str, pattern: str) -> Element:
    return parameter(name, "header", text(about, pattern=pattern), required=True)


_HEADERS = [
    _header(
        "webhook-id",
        "The event's `id`, which is the same in every attempt.",
        EVENT_ID_PATTERN,
    ),
    _header(
        "webhook-timestamp",
        """
        When this attempt was signed, in seconds since 1970. Refuse it if it differs
        by more than 5 minutes from your clock.
        """,
        "^[0-9]+$",
    ),
    _header(
        "webhook-signature",
        """
        Signatures with spaces in between, each with its scheme: `v1a,` (Ed25519) or
        `v1,` (HMAC-SHA-256) and Base64. One valid signature is enough.
        """,
        "^v1a?,[A-Za-z0-9+/]+=*( v1a?,[A-Za-z0-9+/]+=*)*$",
    ),
]

WEBHOOKS: dict[str, Element] = {
    "refundEvent": {
        "post": {
            "operationId": "receiveEvent",
            "tags": [TAG],
            "summary": "Receive an event",
            "description": (
                "The service sends this request to the tenant's webhook. Verify its"
                " signature first."
            ),
            "parameters": _HEADERS,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [schema("Event"), schema("WebhookTest")]},
                        "example": examples.EVENT,
                    }
                },
            },
            "responses": {
                "2XX": {"description": "Received: the event is not sent again."},
                "default": {
                    "description": (
                        "Every other answer, a redirect included, and none within 10"
                        " seconds: the event is sent again later."
                    )
                },
            },
            "security": [],
        }
    }
}
