"""The shipped proxy protects the service from slow clients (H15, G22)."""

import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from api.auth.dev_tokens import mint
from signer.config.settings import Settings
from tests.api.live_server import PING, Server, exchange, service_environ
from tests.api.server.slow_clients import (
    Slow,
    SlowClients,
    slow_body,
    slow_header,
    slow_reader,
)
from tests.api.service import BODY
from tests.fixtures.ledger import filled, queued
from tests.fixtures.nginx import Nginx
from tests.support.ledgers import open_ledger
from tests.support.waiting import eventually


EACH = 200
"""The number of clients of each kind in G22."""

LISTED = 60
"""Refunds in a list: enough to fill the buffers between nginx and a slow reader."""


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> dict[str, str]:
    """The environment of a service whose lists of refunds are long."""
    environ = service_environ(tmp_path_factory.mktemp("slow"), _sqlite_template)
    store = open_ledger(Settings.from_env(environ).effective_database_url)
    filled(store, [queued(reason="r" * 200) for _ in range(LISTED)])
    # One process, because each would have its own key; as many threads as two have.
    return environ | {"TRUSTED_PROXIES": "127.0.0.1", "WEB_THREADS": "8"}


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    """The service with its default number of threads."""
    with Server(environ) as server:
        assert server.ask(PING).status == 200
        yield server


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """
    The shipped proxy in front of the service.

    It waits a minute for slow clients, so that none of them is disconnected while
    the test measures.
    """
    folder = tmp_path_factory.mktemp("nginx")
    with Nginx(folder, server.port, client_seconds=60) as nginx:
        yield nginx
        assert nginx.errors() == ""


@pytest.fixture(scope="module")
def authorization(environ: dict[str, str]) -> str:
    settings = Settings.from_env(environ)
    return f"Bearer {mint(settings, subject='gateway', roles=['merchant'])}"


@pytest.fixture
def kinds(authorization: str) -> list[Slow]:
    """Slow clients with valid tokens, which the service would serve."""
    token = f"Host: localhost\r\nAuthorization: {authorization}\r\n"
    post = (
        f"POST /v1/refunds HTTP/1.1\r\n{token}"
        "Content-Type: application/json\r\nIdempotency-Key: slow\r\n"
    )
    return [
        slow_header(),
        slow_body(post.encode()),
        slow_reader(f"GET /v1/refunds?limit={LISTED} HTTP/1.1\r\n{token}\r\n".encode()),
    ]


class Gateway:
    def __init__(self, port: int, authorization: str, context: ssl.SSLContext) -> None:
        self._connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=30, context=context
        )
        self._token = authorization
        self._waits: list[float] = []
        self.statuses: list[int] = []

    def request_both(self, times: int) -> None:
        with contextlib.closing(self._connection):
            for _ in range(times):
                reference = secrets.token_hex(16)
                body = json.dumps(BODY | {"reference": reference})
                headers = {
                    "Authorization": self._token,
                    "Content-Type": "application/json",
                    "Idempotency-Key": reference,
                }
                self._request("GET", "/readyz", None, {})
                self._request("POST", "/v1/refunds", body, headers)

    def _request(
        self, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> None:
        began = time.monotonic()
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        answer.read()
        self._waits.append(time.monotonic() - began)
        self.statuses.append(answer.status)

    @property
    def median(self) -> float:
        return median(self._waits)


def _answers(server: Server) -> Counter[str]:
    return Counter(re.findall(r'"route": "[^"]*", "status": \d+', server.output()))


def test_slow_clients_do_not_delay_other_clients(
    server: Server, nginx: Nginx, authorization: str, kinds: list[Slow]
) -> None:
    """
    H15, G22: 200 clients each send a header, a body, or read, byte by byte or never.

    Meanwhile no request for ``/readyz`` or a refund fails, and the median wait stays
    close to that of a service without slow clients.
    """
    alone, gateway = (
        Gateway(nginx.port, authorization, nginx.context) for _ in range(2)
    )
    alone.request_both(20)
    *senders, reader = kinds
    slow = partial(
        SlowClients, ("127.0.0.1", nginx.port), each=EACH, context=nginx.context
    )
    with slow([reader]) as readers:
        # Rendering the lists is work of the service, which is not measured here.
        served = '"route": "/v1/refunds", "status": 200'
        all_served = eventually(lambda: _answers(server)[served] >= EACH, patience=60)
        assert all_served, (_answers(server), nginx.log()[-3:])
        with slow(senders) as others:
            gateway.request_both(20)
            connected = [readers.connected(reader), *map(others.connected, senders)]
            finished = [line for line in nginx.log() if '"peer": "127.0.1.' in line]

    assert finished == []
    assert connected == [EACH] * 3
    assert set(alone.statuses) == set(gateway.statuses) == {200, 201}
    # Each slow client would hold a thread for seconds.
    assert gateway.median < max(1.0, 10 * alone.median)


def test_slow_clients_block_a_service_without_a_proxy(environ: dict[str, str]) -> None:
    """H15: as many slow headers as threads block the service itself, for a while."""
    with Server(environ) as server:
        assert server.ask(PING).status == 200
        header = slow_header()
        with SlowClients(("127.0.0.1", server.port), [header], each=EACH) as clients:
            assert eventually(lambda: clients.rounds >= 2)
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


def test_the_service_refuses_requests_that_bypass_the_proxy(
    server: Server, nginx: Nginx, authorization: str
) -> None:
    """The refusal of a valid token is 421; probes are still answered."""
    request = (
        "GET /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: {authorization}\r\n\r\n"
    ).encode()
    with socket.create_connection(
        ("127.0.0.1", server.port), 10, source_address=("127.0.0.2", 0)
    ) as client:
        refused = exchange(client, [request])
        alive = exchange(client, [PING])
    proxied = nginx.ask(request)

    assert (refused.status, refused.json["code"]) == (421, "not-through-proxy")
    assert alive.status == 200
    assert proxied.status == 200
