"""Probes are answered while every other thread waits."""

import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint
from signer.config.settings import Settings
from tests.api.live_server import PING, Server, exchange, service_environ


@pytest.fixture
def environ(tmp_path: Path, _sqlite_template: Path) -> dict[str, str]:
    return service_environ(tmp_path, _sqlite_template) | {"WEB_THREADS": "1"}


@pytest.fixture
def busy(environ: dict[str, str]) -> Iterator[Server]:
    """A service whose only thread waits for a body, until after the test."""
    settings = Settings.from_env(environ)
    token = mint(settings, subject="gateway", roles=["merchant"])
    head = (
        "POST /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nIdempotency-Key: k\r\n"
        "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    )
    with Server(environ) as server, server.connect() as slow, server.connect() as next_:
        assert server.ask(PING).status == 200
        slow.sendall(head.encode() + b"{")
        next_.sendall(PING)
        yield server
        answered, _, _ = select.select([slow, next_], [], [], 0)
        assert answered == []


def _request(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_probes_do_not_wait_for_a_thread(busy: Server) -> None:
    """Neither on a new connection nor on a kept one, by either method."""
    with busy.connect() as kept:
        answers = [
            exchange(kept, [_request("GET", path)]).status
            for path in ("/healthz", "/readyz", "/healthz")
        ]
    with busy.connect() as client:
        client.sendall(_request("HEAD", "/readyz"))
        head = client.recv(12)

    assert answers == [200] * 3
    assert head == b"HTTP/1.1 200"


def test_incomplete_probes_do_not_delay_other_probes(busy: Server) -> None:
    """An incomplete probe waits for one of the threads that all requests share."""
    with ExitStack() as clients:
        for _ in range(8):
            client = clients.enter_context(busy.connect())
            client.sendall(b"GET /healthz HTTP/1.1\r\n")
        status = busy.ask(_request("GET", "/healthz")).status

    assert status == 200
