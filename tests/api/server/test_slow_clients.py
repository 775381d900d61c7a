"""Slow clients harm nobody behind the proxy that is shipped; without it, they do."""

import contextlib
import http.client
import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from api.auth.dev_tokens import mint, provide_signing_key
from backends.sql import SQLStore
from signer.config.settings import Settings
from tests.api.live_server import Server, exchange
from tests.api.service import BODY
from tests.api.wsgi import BROKEN
from tests.fixtures.ledger import filled, queued
from tests.fixtures.nginx import Nginx
from tests.support.slow_clients import (
    Slow,
    SlowClients,
    slow_body,
    slow_header,
    slow_reader,
)
from tests.support.waiting import eventually


EACH = 200
"""How many clients of each kind, as G22 has it."""

# Spelled so that it gets no probe's thread, but one of those that all requests share.
PING = b"GET /healthz? HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> dict[str, str]:
    """The environment of a service whose lists of refunds are long."""
    folder = tmp_path_factory.mktemp("slow")
    provide_signing_key(folder / "private.pem", folder / "public.pem")
    ledger = folder / "hotwallet.db"
    ledger.write_bytes(_sqlite_template.read_bytes())
    filled(
        SQLStore(f"sqlite:///{ledger}"), [queued(reason="r" * 200) for _ in range(200)]
    )
    return {
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(folder),
        "DATABASE_URL": "",
        "JWT_PUBLIC_KEY_FILE": str(folder / "public.pem"),
        "JWT_SIGNING_KEY_FILE": str(folder / "private.pem"),
        "TRUSTED_PROXIES": "127.0.0.1",
        # One process, since each has a key of its own here; as many threads as two.
        "WEB_CONCURRENCY": "1",
        "WEB_THREADS": "8",
        BROKEN: str(folder / "broken"),
    }


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    """The service with as many threads as it has by default."""
    with Server(environ) as server:
        assert server.ask(PING).status == 200
        yield server


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """The proxy as it is shipped, before the service."""
    with Nginx(tmp_path_factory.mktemp("nginx"), server.port) as nginx:
        yield nginx
        assert nginx.errors() == ""


@pytest.fixture(scope="module")
def authorization(environ: dict[str, str]) -> str:
    """The token of the gateway."""
    settings = Settings.from_env(environ)
    return f"Bearer {mint(settings, subject='gateway', roles=['merchant'])}"


@pytest.fixture
def kinds(authorization: str) -> list[Slow]:
    """Slow clients with good tokens: the service would serve them."""
    token = f"Host: localhost\r\nAuthorization: {authorization}\r\n"
    post = (
        f"POST /v1/refunds HTTP/1.1\r\n{token}"
        "Content-Type: application/json\r\nIdempotency-Key: slow\r\n"
    )
    return [
        slow_header(),
        slow_body(post.encode()),
        slow_reader(f"GET /v1/refunds?limit=200 HTTP/1.1\r\n{token}\r\n".encode()),
    ]


class Gateway:
    """A client as it should be, who measures how long it waits."""

    def __init__(
        self, port: int, authorization: str, context: ssl.SSLContext | None = None
    ) -> None:
        self._connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
            if context
            else http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        )
        self._token = authorization
        self.waits: dict[str, list[float]] = {"/readyz": [], "/v1/refunds": []}
        self.statuses: list[int] = []

    def ask(self, most: int, *, going: Callable[[], bool] = lambda: True) -> None:
        """Ask for readiness and for refunds in turns, *most* times while *going*."""
        with contextlib.closing(self._connection):
            for _ in range(most):
                if not going():
                    return
                self._ask("GET", "/readyz")
                self._ask("POST", "/v1/refunds", secrets.token_hex(16))

    def _ask(self, method: str, path: str, reference: str = "") -> None:
        headers = {
            "Authorization": self._token,
            "Content-Type": "application/json",
            "Idempotency-Key": reference,
        }
        body = json.dumps(BODY | {"reference": reference}) if reference else None
        began = time.monotonic()
        self._connection.request(method, path, body, headers if reference else {})
        answer = self._connection.getresponse()
        answer.read()
        self.waits[path].append(time.monotonic() - began)
        self.statuses.append(answer.status)

    @property
    def median(self) -> float:
        """The median wait in seconds, of both kinds of requests together."""
        return median(wait for waits in self.waits.values() for wait in waits)


def _answered(server: Server) -> int:
    """Return how many lists of refunds the service has given to the proxy."""
    return server.output().count('"route": "/v1/refunds", "status": 200')


def test_slow_clients_stop_nobody(
    server: Server, nginx: Nginx, authorization: str, kinds: list[Slow]
) -> None:
    """
    H15, G22: 200 clients each send a header, a body, or read, byte by byte or never.

    Meanwhile no request for ``/readyz`` or a refund fails, and the median wait is that
    of a service without slow clients, give or take what their own work costs.
    """
    alone, gateway = (
        Gateway(nginx.port, authorization, nginx.context) for _ in range(2)
    )
    alone.ask(50)
    *senders, reader = kinds
    slow = partial(
        SlowClients, ("127.0.0.1", nginx.port), each=EACH, context=nginx.context
    )
    with slow([reader]) as readers:
        # To make so many answers is work, and not what is measured here.
        assert eventually(lambda: _answered(server) == EACH)
        with slow(senders) as others:
            # nginx hangs up on slow clients after a while: ask while most are there.
            gateway.ask(
                50,
                going=lambda: (
                    readers.connected(reader) > EACH // 2
                    and all(others.connected(kind) > EACH // 2 for kind in senders)
                ),
            )
            taken = [line for line in nginx.log() if '"peer": "127.0.1.' in line]

    assert taken == []
    assert len(gateway.statuses) >= 10
    assert set(alone.statuses) == set(gateway.statuses) == {200, 201}
    # Each slow client would hold a thread for seconds.
    assert gateway.median < max(1.0, 10 * alone.median)


def test_without_the_proxy_they_do(environ: dict[str, str], authorization: str) -> None:
    """H15: straight at the service, as many slow headers as threads stop everybody."""
    with Server(environ) as server:
        assert server.ask(PING).status == 200
        address = ("127.0.0.1", server.port)
        with SlowClients(address, [slow_header()], each=EACH):
            time.sleep(1)
            with server.connect() as client:
                client.settimeout(1)
                client.sendall(PING)
                with pytest.raises(TimeoutError):
                    client.recv(1)
        began = time.monotonic()
        status = server.ask(PING).status
        waited = time.monotonic() - began

    assert status == 200
    assert waited < 5


def test_nobody_comes_past_the_proxy(
    server: Server, nginx: Nginx, authorization: str
) -> None:
    """A good token is no use to who reaches the service itself; probes still work."""
    ask = (
        f"GET /v1/refunds HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}"
    )
    with socket.create_connection(
        ("127.0.0.1", server.port), 10, source_address=("127.0.0.2", 0)
    ) as client:
        refused = exchange(client, [ask.encode() + b"\r\n\r\n"])
        alive = exchange(client, [PING])
    proxied = nginx.ask(ask.encode() + b"\r\n\r\n")

    assert (refused.status, refused.json["code"]) == (421, "not-through-proxy")
    assert alive.status == 200
    assert proxied.status == 200
