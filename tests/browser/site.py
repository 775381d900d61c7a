"""
A running service with something to look at: refunds, limits, an approval, a history.

The history of the last week is written into the ledger.  The newest refunds are real:
they are requested over HTTP, and a worker pays them.
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self

from api.auth.dev_tokens import mint
from api.bootstrap import build_container
from api.container import Container
from api.extras.console.sessions import LOCAL_NAME, SESSION_LIFETIME, Sessions
from api.principal import Principal
from backends.sql import SQLStore
from dev.stack import Stack, running_stack
from signer.config.tenants import EventType
from signer.model.event import DeliveryState
from signer.ports.clock import utc_now
from tests.browser.history import write_history
from tests.e2e.gateway import Gateway
from tests.support.forked_processes import ForkedHotWallet
from tests.support.waiting import eventually


EXPLORER = "https://explorer.example"

PAGES = {
    "login": "/console/login",
    "overview": "/console",
    "refunds": "/console/refunds",
    "refund": "/console/refunds/{refund_id}",
    "approvals": "/console/approvals",
    "approval": "/console/approvals/{digest}",
    "keys": "/console/keys",
    "wallets": "/console/wallets",
    "signatures": "/console/signatures",
    "policy": "/console/policy",
    "trends": "/console/trends",
    "audit": "/console/audit",
    "webhooks": "/console/webhooks",
    "stops": "/console/stops",
    "change": "/console/changes/rotate-key",
    "code": "/console/codes/limit-reached",
}
"""The pages of the console, by the name of their pictures."""

# The limit of the day delays a refund also if an hour ends meanwhile.
_LIMITS = """
min_amount = "0.50"
approve_above = "500"
hourly_limit = "1000"
daily_limit = "1000"

[networks.local.automatic_stop]
max_refunds = 200
max_failed_percent = 20
"""

_TENANTS = """
[tenants.shop]
subjects = ["developer"]
max_open_refunds = 1000
requests_per_minute = 600

[tenants.shop.webhook]
url = "{webhook}"

[tenants.shop.networks.local.tokens.TUSD]
daily_limit = "2000"
daily_limit_per_recipient = "1500"

[tenants.marketplace]
subjects = ["marketplace"]
"""

_PAID = (
    ("order-10482", "12.50", "Item out of stock"),
    ("order-10497", "240.00", "Returned within 14 days"),
    ("order-10501", "89.90", "Delivered damaged"),
    ("order-10513", "310.00", "Cancelled before delivery"),
    ("order-10520", "64.75", "Price difference"),
)
_DELAYED = ("order-10526", "420.00", "Returned within 14 days")
_LARGE = ("order-10530", "640.00", "Cancelled subscription, one year")

_PATIENCE = 60.0


@dataclass
class Site:
    """The service at ``url``, and what there is to look at."""

    stack: Stack
    refunds: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address; browsers treat ``localhost`` as secure, also over HTTP."""
        return self.stack.url.replace("127.0.0.1", "localhost")

    @cached_property
    def container(self) -> Container:
        return build_container(self.stack.environ)

    def token(self, scope: str = "console:read", subject: str = "alice") -> str:
        settings = self.container.settings
        return mint(settings, subject=subject, roles=["admin"], scopes=[scope])

    def cookie(self, *, age: timedelta = timedelta(0)) -> Any:
        """Return the cookie of a session that began *age* ago, for playwright."""
        sessions = Sessions(self.container.row_macs, lambda: utc_now() - age)
        caller = Principal(
            "alice",
            frozenset({"admin"}),
            "jti",
            utc_now() + SESSION_LIFETIME,
            frozenset({"console:read"}),
        )
        _, text = sessions.start(caller)
        return {"name": LOCAL_NAME, "value": text, "url": self.url}

    def pages(self) -> dict[str, str]:
        """Return the path of each page of the console, by the name of its picture."""
        (approval,) = self.container.approvals.list().approvals
        ids = {"refund_id": self.refunds[_PAID[0][0]], "digest": approval.digest}
        return {name: path.format(**ids) for name, path in PAGES.items()}


class _Receiver(ThreadingHTTPServer):
    """The webhook of the shop, which does not know one type of event."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = Thread(target=self.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Accept the event, unless it is of a refund that waits for an approval."""
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_known = event["type"] != EventType.AWAITING_APPROVAL
        self.send_response(204 if is_known else 501)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Do not log."""


@contextmanager
def running_site(home: Path) -> Iterator[Site]:
    """Start a site in *home*, whose refunds are confirmed, delayed and waiting."""
    home.mkdir(parents=True, exist_ok=True)
    with _Receiver() as webhook:
        yield from _running_site(home, webhook.url)


def _running_site(home: Path, webhook: str) -> Iterator[Site]:
    tenants = home.parent / "tenants.toml"
    tenants.write_text(_TENANTS.format(webhook=webhook), encoding="utf-8")
    settings = {
        "TENANTS_FILE": str(tenants),
        "RATE_LIMIT_ADMIN": "100000",
        "RATE_LIMIT_REFUSED": "100000",
        "REQUIRE_APPROVALS": "true",
        "WEB_CONCURRENCY": "1",
    }
    with running_stack(
        home, settings=settings, edit_networks=_edit_networks, program=ForkedHotWallet()
    ) as stack:
        site = Site(stack)
        store = site.container.store
        assert isinstance(store, SQLStore)
        with closing(store):
            write_history(store, site.container.row_macs, utc_now(), stack.token)
            _request_refunds(site)
            yield site


def _edit_networks(text: str) -> str:
    """Add an explorer, limits of the token, and rules that stop the network."""
    with_explorer = text.replace(
        "confirmations = 2\n", f'confirmations = 2\nexplorer = "{EXPLORER}"\n'
    )
    return with_explorer + _LIMITS


def _request_refunds(site: Site) -> None:
    gateway = Gateway.of(site.stack)
    for reference, amount, reason in (*_PAID, _DELAYED, _LARGE):
        status, _, refund = gateway.post(
            reference, reference=reference, amount=amount, reason=reason
        )
        assert status in {201, 202}, refund
        site.refunds[reference] = refund["id"]
    for reference, _, _ in _PAID:
        gateway.wait(site.refunds[reference], "confirmed", _PATIENCE)
    store = site.container.store

    def is_delayed() -> bool:
        found = store.get(site.refunds[_DELAYED[0]])
        return found is not None and found.moving.blocked_by == "limit-reached"

    def is_refused() -> bool:
        states = [each for each, _ in store.deliveries(100)]
        return any(
            each.state is DeliveryState.PENDING and each.attempts for each in states
        ) and any(each.state is DeliveryState.DELIVERED for each in states)

    assert eventually(is_delayed, _PATIENCE)
    assert eventually(is_refused, _PATIENCE)
