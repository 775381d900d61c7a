"""Probes are answered while every thread waits: that is when they are needed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint
from backends.sql import SQLStore
from signer.config.settings import Settings
from tests.api.live_server import Server, exchange, service_environ
from tests.api.service import BODY
from tests.support.waiting import eventually


SECONDS = 8
"""For how long the refund of these tests keeps its thread."""


@pytest.fixture
def environ(tmp_path: Path, _sqlite_template: Path) -> dict[str, str]:
    """The environment of a service that has one thread."""
    return service_environ(tmp_path, _sqlite_template) | {"WEB_THREADS": "1"}


@pytest.fixture
def busy(environ: dict[str, str]) -> Iterator[Server]:
    """A service whose only thread keeps a refund waiting, as a device that hangs."""
    settings = Settings.from_env(environ)
    store = SQLStore(settings.effective_database_url)
    token = mint(settings, subject="gateway", roles=["merchant"])
    body = json.dumps(BODY).encode()
    head = (
        "POST /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nIdempotency-Key: k\r\n"
        f"Prefer: wait={SECONDS}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with Server(environ) as server, server.connect() as client:
        client.sendall(head.encode() + body)
        assert eventually(lambda: store.list("gateway").refunds)
        yield server
        assert exchange(client, []).status == 201
    store.close()


def _request(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_probes_do_not_wait_for_a_thread(busy: Server) -> None:
    """On a new connection, or a kept one, by either method: nobody waits."""
    began = time.monotonic()
    with busy.connect() as kept:
        answers = [
            exchange(kept, [_request("GET", path)]).status
            for path in ("/healthz", "/readyz", "/healthz")
        ]
    with busy.connect() as client:
        client.sendall(_request("HEAD", "/readyz"))
        told = client.recv(12)
    seconds = time.monotonic() - began

    assert answers == [200] * 3
    assert told == b"HTTP/1.1 200"
    assert seconds < SECONDS / 2


def test_half_a_probe_keeps_no_probe_waiting(busy: Server) -> None:
    """Whoever begins to probe, and stops, waits with the others for their threads."""
    slow = [busy.connect() for _ in range(8)]
    for client in slow:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
    began = time.monotonic()
    status = busy.ask(_request("GET", "/healthz")).status
    seconds = time.monotonic() - began
    for client in slow:
        client.close()

    assert status == 200
    assert seconds < SECONDS / 2
