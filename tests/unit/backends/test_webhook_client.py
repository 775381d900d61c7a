"""Receivers that are slow, hostile, or in a place where nothing must be sent."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backends.webhook_client import WebhookClient
from signer.webhooks.endpoint import LOOPBACK
from tests.fixtures.tls_server import self_signed


BODY = b'{"type":"refund.confirmed"}'
HEADERS = {"webhook-id": "evt_1", "Content-Type": "application/json"}

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

Serve = Callable[[socket.socket], None]


class Receiver:
    """A server that answers each connection with *serve*, and counts what it reads."""

    def __init__(self, serve: Serve, tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.requests: list[bytes] = []
        self.connections = 0
        self.closing = threading.Event()

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        """Return a URL of the server."""
        return f"{scheme}://{host}:{self.port}/hook?x=1"

    def run(self) -> None:
        """Answer connections, one after the other, until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with suppress(OSError), connection:
                connection.settimeout(5)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while BODY not in request and (data := connection.recv(65536)):
                request += data
            self.requests.append(request)
            self._serve(connection)

    def close(self) -> None:
        """Stop the server."""
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def _receiver(
    answer: Serve | bytes, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    serve = (lambda c: c.sendall(answer)) if isinstance(answer, bytes) else answer
    receiver = Receiver(serve, tls)
    thread = threading.Thread(target=receiver.run, daemon=True)
    thread.start()
    yield receiver
    receiver.close()
    thread.join()


def _client(
    resolve: Callable[[str, int], Sequence[str]] | None = None,
    *,
    timeout: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> WebhookClient:
    return WebhookClient(
        LOOPBACK, allow_http=True, timeout=timeout, resolve=resolve, tls=tls
    )


def _always(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda host, port: addresses


def test_an_accepted_message() -> None:
    """The body arrives as it was signed, at the path of the URL."""
    with _receiver(OK) as receiver:
        assert _client().send(receiver.url(), HEADERS, BODY) is None
        (request,) = receiver.requests

    head, _, body = request.partition(b"\r\n\r\n")
    assert body == BODY
    assert head.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{receiver.port}\r\n".encode() in head
    assert b"\r\nwebhook-id: evt_1" in head


@pytest.mark.parametrize("status", [201, 204, 299])
def test_every_success(status: int) -> None:
    with _receiver(f"HTTP/1.1 {status} X\r\n\r\n".encode()) as receiver:
        assert _client().send(receiver.url(), HEADERS, BODY) is None


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", "status-500"),
        (b"HTTP/1.1 410 X\r\nContent-Length: 0\r\n\r\n", "status-410"),
        (b"HTTP/1.1 304 X\r\n\r\n", "status-304"),
        (b"", "unreachable"),
        (b"200 OK", "unreachable"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "unreachable"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", "unreachable"),
    ],
    ids=[
        "error",
        "gone",
        "not modified",
        "closes",
        "garbage",
        "tls",
        "no status",
        "many headers",
        "long header",
    ],
)
def test_answers_that_are_no_success(answer: bytes, problem: str) -> None:
    with _receiver(answer) as receiver:
        assert _client().send(receiver.url(), HEADERS, BODY) == problem


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """Not even to the same host, where another path may do harm."""
    with _receiver(OK) as other:
        location = f"Location: {other.url()}\r\nContent-Length: 0\r\n\r\n"
        with _receiver(f"HTTP/1.1 {status} X\r\n{location}".encode()) as receiver:
            problem = _client().send(receiver.url(), HEADERS, BODY)

        assert problem == f"status-{status}"
        assert other.connections == 0


def _endless_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def test_an_endless_body_is_not_read() -> None:
    """The status is known before it; the connection is closed."""
    with _receiver(_endless_body) as receiver:
        assert _client().send(receiver.url(), HEADERS, BODY) is None


def test_a_body_that_expands_is_not_read() -> None:
    bomb = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
    with _receiver(bomb + b"\x1f\x8b garba") as receiver:
        assert _client().send(receiver.url(), HEADERS, BODY) is None


def test_slow_headers_end_at_the_deadline() -> None:
    """The timeout is one for the whole response, not one for each byte."""
    with _receiver(lambda c: None) as receiver:

        def drip(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not receiver.closing.wait(0.02):
                connection.sendall(b"X: y\r\n")

        receiver._serve = drip
        started = time.monotonic()
        assert _client(timeout=0.4).send(receiver.url(), HEADERS, BODY) == "too-slow"
        assert time.monotonic() - started < 20


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    url = f"http://127.0.0.1:{port}/"
    assert _client().send(url, HEADERS, BODY) == "unreachable"


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["127.0.0.1", "10.0.0.1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1%eth0"],
        [],
    ],
)
def test_nothing_is_sent_to_other_addresses(addresses: list[str]) -> None:
    """One address that is refused refuses the host, also beside allowed ones."""
    with _receiver(OK) as receiver:
        url = receiver.url("receiver.example")
        found = _client(_always(*addresses)).send(url, HEADERS, BODY)

        assert found == "address-refused"
        assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1"])
def test_in_production_nothing_is_sent_to_this_host(host: str) -> None:
    """However its address is written."""
    with _receiver(OK) as receiver:
        client = WebhookClient(allow_http=True)

        assert client.send(receiver.url(host), HEADERS, BODY) == "address-refused"
        assert receiver.connections == 0


def test_a_name_that_leads_elsewhere_the_second_time() -> None:
    """DNS rebinding: the checked address is the one that is connected to."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    asked = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers.pop(0)

    with _receiver(OK) as receiver:
        url = receiver.url("rebinding.example")
        assert _client(resolve).send(url, HEADERS, BODY) is None
        (request,) = receiver.requests

    assert asked == ["rebinding.example"]
    assert f"\r\nHost: rebinding.example:{receiver.port}\r\n".encode() in request


def test_a_name_that_does_not_exist() -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror

    url = "http://missing.example/"
    assert _client(resolve).send(url, HEADERS, BODY) == "host-unknown"


def test_http_is_for_development() -> None:
    client = WebhookClient(LOOPBACK)

    assert client.send("http://127.0.0.1:9/", HEADERS, BODY) == "url-refused"
    assert client.send("ftp://127.0.0.1:9/", HEADERS, BODY) == "url-refused"


def test_the_proxy_of_the_environment_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy would resolve the name itself."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with _receiver(OK) as receiver:
        assert _client().send(receiver.url(), HEADERS, BODY) is None


def _server_tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")
    return context


def test_the_certificate_is_that_of_the_host(tmp_path: Path) -> None:
    """The connection goes to an address; the certificate must be for the name."""
    trusted = self_signed(tmp_path, "receiver.example")
    with _receiver(OK, _server_tls(tmp_path)) as receiver:
        client = _client(_always("127.0.0.1"), tls=trusted)
        right = receiver.url("receiver.example", "https")
        wrong = receiver.url("other.example", "https")

        assert client.send(right, HEADERS, BODY) is None
        assert client.send(wrong, HEADERS, BODY) == "unreachable"
        assert _client(_always("127.0.0.1")).send(right, HEADERS, BODY) == (
            "unreachable"
        )
        assert len(receiver.requests) == 1
