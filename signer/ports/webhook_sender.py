"""Senders of messages to other systems: events to tenants, alerts to operators."""

from collections.abc import Mapping
from typing import Protocol


class WebhookSender(Protocol):
    """Sends messages to receivers, none of which is trusted."""

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str | None:
        """
        Post *body*; return None if the receiver accepted it, and the problem otherwise.

        It takes a bounded time, except for the resolution of the host's name.  It sends
        nothing if the host has an address that events must not be sent to.
        """


class Notifier(Protocol):
    """Sends alerts to an external system."""

    def notify(self, document: Mapping[str, object]) -> None:
        """Send *document*, possibly in the background; never raises."""
