"""``hotwallet health`` asks the API of its host, as the health check of the image."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from api.server.probe import connect_address
from dev.ports import free_port
from tests.support.forked_processes import run_command


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "ok"}'
        self.send_response(200 if self.path == "/healthz" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def address_string(self) -> str:
        return "unix"


class _UnixServer(socketserver.UnixStreamServer):
    """The same on a Unix socket."""


class _MailHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"220 mail.example.com\r\n")


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _health(bind: str, *options: str) -> tuple[int, str]:
    environ = {"BIND": bind, "APP_ENV": "test", "HOTWALLET_NO_ENV_FILE": "1"}
    finished = run_command(["health", *options], environ)
    return finished.returncode, finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = HTTPServer(("0.0.0.0", 0), _Handler)
    with _served(server):
        yield server.server_port


def test_an_api_that_answers_is_healthy(port: int) -> None:
    """Also if it listens on all addresses, as in a container."""
    assert _health(f"0.0.0.0:{port}") == (0, '{"status": "ok"}\n')
    assert _health(f"127.0.0.1:{port}")[0] == 0


def test_it_may_be_alive_and_not_ready(port: int) -> None:
    """The answer says why."""
    assert _health(f"127.0.0.1:{port}", "--ready") == (1, '{"status": "ok"}\n')


def test_a_unix_socket_is_asked_too(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with _served(_UnixServer(str(path), _Handler)):
        assert _health(f"unix:{path}")[0] == 0


def test_a_port_without_a_server_is_not_healthy() -> None:
    status, output = _health(f"127.0.0.1:{free_port()}")

    assert (status, output) == (1, "nothing answers at BIND (ConnectionRefusedError)\n")


def test_another_protocol_is_not_healthy() -> None:
    server = socketserver.TCPServer(("127.0.0.1", 0), _MailHandler)
    with _served(server):
        status, output = _health(f"127.0.0.1:{server.server_address[1]}")

    assert (status, output) == (1, "nothing answers at BIND (ConnectionError)\n")


def test_a_malformed_address_is_a_usage_error() -> None:
    status, output = _health("here:there:80")

    assert status == 2
    assert "BIND is not HOST:PORT or unix:PATH" in output


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("0.0.0.0:8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("[::]:8080", ("::1", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("tcp://10.0.0.1:80", ("10.0.0.1", 80)),
        ("localhost", ("localhost", 8000)),
    ],
)
def test_it_connects_to_where_the_api_listens(
    bind: str, address: tuple[str, int]
) -> None:
    assert connect_address(bind) == address
