"""The webhook of a tenant, with the keys that sign for it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from signer.config.tenants import Webhook
from signer.model.event import Event
from signer.model.refund import Refund
from signer.ports.webhook_sender import WebhookSender
from signer.webhooks.signatures import SigningKey, sign


EventDocument = Callable[[Event, Refund], Mapping[str, Any]]
"""Returns an event as JSON for its tenant."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one tenant receives its events."""

    webhook: Webhook
    keys: Sequence[SigningKey] = field(repr=False)

    def wants(self, event: Event) -> bool:
        """Return whether *event* is of a type that the tenant wants."""
        return self.webhook.wants(event.type)

    def send(
        self,
        sender: WebhookSender,
        message_id: str,
        document: Mapping[str, Any],
        at: datetime,
    ) -> str | None:
        """Send a signed message; return the problem, or None if it was accepted."""
        body = json.dumps(document, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            **sign(self.keys, message_id, at, body),
        }
        return sender.send(self.webhook.url, headers, body)


Endpoints = Mapping[str, Endpoint]
"""The webhooks by tenant."""
