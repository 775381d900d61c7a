"""Webhooks of tests: a receiver in this process, and dispatchers that send to it."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.views.refunds import event_document
from signer.alerts import Alerts
from signer.config.tenants import Webhook
from signer.model.event import DeliveryState
from signer.ports.clock import Clock, utc_now
from signer.ports.event_store import DeliveryFilter
from signer.ports.ledger import Ledger
from signer.webhooks.dispatcher import WebhookDispatcher
from signer.webhooks.endpoint import Endpoint, Endpoints
from signer.webhooks.signatures import PrivateKey, Secret, verify
from tests.support.waiting import eventually


KEY = PrivateKey(b"\x05" * 32)
SECRET = Secret(b"\x06" * 32)

URL = "https://gateway.example/hook"


@dataclass
class Receiver:
    """Implements ``WebhookSender``: verifies each message, and answers by *respond*."""

    respond: Callable[[str], str | None] = lambda _: None
    messages: list[dict[str, Any]] = field(default_factory=list)
    by_url: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    running: int = 0
    most: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str | None:
        """Verify the message with both keys, and note it."""
        id_ = verify([KEY.public], headers, body, utc_now())
        assert verify([SECRET], headers, body, utc_now()) == id_
        message = json.loads(body)
        assert message["id"] == id_
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.messages.append(message)
            self.by_url[url].append(id_)
        try:
            return self.respond(url)
        finally:
            with self._lock:
                self.running -= 1


def endpoint(url: str = URL, **options: Any) -> Endpoint:
    """Return the webhook of a tenant, with a key and a secret."""
    return Endpoint(Webhook(url=url, **options), (KEY, SECRET))


def dispatcher(
    store: Ledger,
    receiver: Receiver,
    endpoints: Endpoints | None = None,
    *,
    clock: Clock = utc_now,
    **options: Any,
) -> WebhookDispatcher:
    """Return a dispatcher without jitter; by default the gateway has a webhook."""
    return WebhookDispatcher(
        store,
        receiver,
        {"gateway": endpoint()} if endpoints is None else endpoints,
        document=event_document,
        alerts=Alerts(store, clock=clock),
        clock=clock,
        **{"draw": lambda: 0.5, **options},
    )


def work_until(working: WebhookDispatcher, condition: Callable[[], object]) -> None:

    def attempt() -> object:
        working.work()
        return condition()

    assert eventually(attempt)


def count(store: Ledger, state: DeliveryState) -> int:
    """Return how many deliveries are in *state*, up to 1,000."""
    return len(store.deliveries(1000, DeliveryFilter(state=state)))
