"""The HTTP client with servers that are slow, or send much data or redirects."""

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import urllib3
from pydantic import SecretStr
from urllib3.connection import HTTPConnection

from backends.http_client import ExchangeError, HTTPClient, Response, bound_responses


CANARY = "canary-T0KEN-48213"
OK = b"HTTP/1.1 200 OK\r\n"

StartServer = Callable[..., str]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers that send fixed bytes, and optionally a repeated piece."""
    with ExitStack() as stack:
        closing = threading.Event()

        def serve(server: socket.socket, head: bytes, piece: bytes) -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    stack.callback(connection.close)
                    connection.recv(65536)
                    connection.sendall(head)
                    while piece and not closing.wait(0.02):
                        connection.sendall(piece)

        def start(head: bytes, piece: bytes = b"") -> str:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(
                target=serve, args=(server, head, piece), daemon=True
            ).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}/{CANARY}"

        yield start
        closing.set()


def _client(url: str, timeout: float = 5.0, **options: Any) -> HTTPClient:
    options.setdefault("max_bytes", 100)
    return HTTPClient(SecretStr(url), timeout=timeout, headers={}, **options)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (OK + b"X-Slow: ", b"a"),
        (OK, b"X: y\r\n"),
        (OK + b"Content-Length: 99\r\n\r\n", b"a"),
        (b"", b""),
    ],
    ids=["status line", "header", "headers", "body", "nothing"],
)
def test_one_deadline_bounds_the_whole_response(
    start_server: StartServer, head: bytes, piece: bytes
) -> None:
    """A server that sends a byte at a time does not outlive the timeout."""
    client = _client(start_server(head, piece), timeout=0.2)
    started = time.monotonic()

    with pytest.raises(ExchangeError, match="too-slow"):
        client.exchange("GET")

    assert time.monotonic() - started < 5


def test_connecting_takes_at_most_half_of_the_timeout(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's second address is tried in time when the first one does not answer."""
    timeouts = []

    def connect(address: Any, timeout: float, **options: Any) -> socket.socket:
        timeouts.append(timeout)
        return create_connection(address, timeout, **options)

    create_connection = urllib3.util.connection.create_connection
    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    url = start_server(OK + b"Content-Length: 2\r\n\r\nhi")

    assert _client(url, timeout=4.0).exchange("GET").status == 200
    assert timeouts == [2.0]


def test_a_large_body_is_refused(start_server: StartServer) -> None:
    """A body longer than *max_bytes* is not read to its end."""
    client = _client(start_server(OK + b"\r\n", b"x" * 101))

    with pytest.raises(ExchangeError, match="too-large"):
        client.exchange("GET")


def test_a_body_can_be_left_unread(start_server: StartServer) -> None:
    """Without *max_bytes* an endless body causes no delay."""
    client = _client(start_server(OK + b"\r\n", b"x"), max_bytes=None)

    assert client.exchange("POST", b"{}") == Response(200, b"")


def test_a_redirect_is_returned_and_not_followed(start_server: StartServer) -> None:
    """The caller gets the status of a redirect."""
    target = start_server(OK + b"Content-Length: 0\r\n\r\n")
    head = f"HTTP/1.1 307 Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"

    assert _client(start_server(head.encode())).exchange("GET").status == 307


def test_a_proxy_is_used(start_server: StartServer) -> None:
    """With a proxy, the host of the URL is not resolved here."""
    proxy = start_server(OK + b"Content-Length: 5\r\n\r\nproxy")
    client = _client("http://host.invalid/", proxy=proxy)

    assert client.exchange("GET").body == b"proxy"


@pytest.mark.parametrize("url", ["", "ftp://host/", "nonsense"])
def test_another_scheme_is_refused(url: str) -> None:
    """Only http and https URLs make a client; the error omits the URL."""
    with pytest.raises(ValueError, match="must begin with") as caught:
        _client(url + CANARY)

    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http:///", "https://[::1]:9/"])
def test_errors_omit_the_url(url: str) -> None:
    """No error in the chain contains the URL, which may be a secret."""
    with pytest.raises(ExchangeError, match="unreachable") as caught:
        _client(url + CANARY).exchange("GET")

    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_request_is_sent_in_one_piece() -> None:
    """Head and body together; also the second request of a connection."""
    sent: list[bytes] = []

    class Recording(HTTPConnection):
        def send(self, data: Any) -> None:
            sent.append(data)

        def getresponse(self) -> Any:
            return urllib3.HTTPResponse(b"", status=200)

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Recording

    pool = bound_responses({"http": Pool})["http"]("127.0.0.1", 9)
    for body in (b"{}", b"[]", None):
        pool.urlopen("POST", "/", body=body)

    assert [data.partition(b"\r\n\r\n")[2] for data in sent] == [b"{}", b"[]", b""]
    assert all(data.startswith(b"POST / HTTP/1.1\r\n") for data in sent)


def test_a_request_that_cannot_be_built_is_not_sent(start_server: StartServer) -> None:
    """And the connection serves the next one."""
    with _client(start_server(OK + b"Content-Length: 0\r\n\r\n")) as client:
        with pytest.raises(ExchangeError):
            client.exchange("GET\n")

        assert client.exchange("GET").status == 200
