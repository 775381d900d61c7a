"""Slow clients occupy a thread for a limited time."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from api.auth.dev_tokens import mint
from api.http.body import SlowClientError
from api.server import gunicorn_worker
from api.server.gunicorn_worker import DeadlineSocket, GunicornWorker
from signer.config.settings import Settings
from tests.api.live_server import Answer, Server, exchange, service_environ


SECONDS = 0.5
"""As long as the worker of these tests waits; the shipped one waits for ten."""

# Spelled so that it gets no probe's thread, but one of those that all requests share.
PING = b"GET /healthz? HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[DeadlineSocket, socket.socket]]:
    """The server's socket, with a deadline of 0.2 s, and the client's."""
    ours, theirs = socket.socketpair()
    with DeadlineSocket(ours, 0.2) as server, theirs:
        server.setblocking(True)
        yield server, theirs


Ends = tuple[DeadlineSocket, socket.socket]


def test_all_parts_of_a_request_share_a_deadline(ends: Ends) -> None:
    """Only ``reset_deadline`` starts over."""
    server, client = ends
    server._seconds_left["read"] = 0.05
    client.send(b"a")

    assert server.recv(1) == b"a"
    for _ in range(2):
        with pytest.raises(SlowClientError):
            server.recv(1)
    server.reset_deadline()
    client.send(b"b")
    assert server.recv(1) == b"b"


def test_only_waiting_for_the_client_counts(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that the application takes between two reads does not."""
    server, client = ends
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(gunicorn_worker, "time", clock)
    client.send(b"ab")

    assert server.recv(1) == b"a"
    now[0] += 100
    assert server.recv(1) == b"b"
    server.sendall(b"c")
    assert client.recv(1) == b"c"


def test_head_and_body_are_sent_in_one_piece() -> None:
    """Each piece is a system call, a packet, and wakes the client."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with DeadlineSocket(ours, 0.2) as server, theirs:
        server.setblocking(True)
        with server.joined_sends():
            server.sendall(b"head")
            server.sendall(b"body")

        assert theirs.recv(100) == b"headbody"
        server.sendall(b"more")
        assert theirs.recv(100) == b"more"


def test_a_failed_answer_is_not_sent(ends: Ends) -> None:
    server, client = ends

    def fail() -> None:
        with server.joined_sends():
            server.sendall(b"head")
            raise TypeError

    with pytest.raises(TypeError):
        fail()

    server.sendall(b"x")
    assert client.recv(100) == b"x"


def test_each_request_has_its_own_deadline(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn's worker starts over when it handles another request."""
    server, _ = ends
    server._seconds_left = {"read": 0.01, "write": 0.01}
    monkeypatch.setattr(
        GunicornWorker.__base__, "handle", lambda _, conn: conn.sock._seconds_left
    )
    worker = object.__new__(GunicornWorker)

    fresh = {"read": 0.2, "write": 0.2}
    assert worker.handle(SimpleNamespace(sock=server)) == fresh


def test_an_answer_that_is_not_read_breaks_the_connection(ends: Ends) -> None:
    server, _ = ends

    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            server.sendall(bytes(10_000_000))


def test_send_has_the_deadline_too(ends: Ends) -> None:
    """gunicorn sends ``100 Continue`` with ``send``."""
    ours, _ = ends
    began = time.monotonic()
    taken = [1]

    def speak() -> None:
        while taken[-1]:
            taken.append(ours.send(bytes(1 << 16)))

    with pytest.raises(BrokenPipeError):
        speak()

    assert time.monotonic() - began < 5


def test_explicit_timeouts_are_kept(ends: Ends) -> None:
    """gunicorn's own timeouts raise what gunicorn expects."""
    server, client = ends
    server.settimeout(0.01)

    with pytest.raises(TimeoutError):
        server.recv(1)
    with pytest.raises(TimeoutError):
        server.sendall(bytes(10_000_000))
    server.setblocking(False)
    client.send(b"a")
    assert server.recv(1) == b"a"


def test_reads_nothing_after_linger(ends: Ends) -> None:
    server, client = ends
    client.sendall(b"rest")
    client.shutdown(socket.SHUT_WR)
    server.linger()

    assert client.recv(1) == b""
    assert server.recv(1) == b""


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("timeouts")
    return service_environ(folder, _sqlite_template) | {"WEB_THREADS": "2"}


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    with Server(environ, config="python:tests.api.impatient") as server:
        assert server.ask(PING).status == 200
        yield server
        assert server.stop() == 0
        assert server.errors() == ""


@pytest.fixture
def head(environ: dict[str, str]) -> bytes:
    token = mint(Settings.from_env(environ), subject="gateway-1", roles=["merchant"])
    return (
        "POST /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        "Idempotency-Key: slow\r\n"
    ).encode()


def _send_slowly(server: Server, start: bytes) -> tuple[Answer, float]:
    """Send *start*, then a byte every 0.1 s; return the answer and the seconds."""
    with server.connect() as client:
        began = time.monotonic()
        client.sendall(start)
        client.settimeout(0.1)
        while time.monotonic() < began + 30:
            try:
                client.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                client.send(b"x")
        client.settimeout(5)
        waited = time.monotonic() - began
        return exchange(client, []), waited


def _assert_late(server: Server, start: bytes) -> None:
    answer, waited = _send_slowly(server, start)

    assert (answer.status, answer.json["code"]) == (408, "request-timeout")
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["connection"] == "close"
    assert 0.9 * SECONDS < waited < 20  # The client would go on for 30 s.
    assert server.ask(PING).status == 200


def test_a_slow_header_times_out(server: Server) -> None:
    """H15: the answer is 408, and the thread is free again."""
    _assert_late(server, b"GET /healthz HTTP/1.1\r\nX: ")


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 16000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e80\r\n"],
)
def test_a_slow_body_times_out(server: Server, head: bytes, framing: bytes) -> None:
    """H15: the answer is 408, for a Content-Length and for chunks."""
    _assert_late(server, head + framing)


def test_silent_connections_occupy_no_thread(server: Server) -> None:
    """H15: the server closes them after a while."""
    silent = [server.connect() for _ in range(20)]
    began = time.monotonic()
    status = server.ask(PING).status
    waited = time.monotonic() - began
    ends = {client.recv(1) for client in silent}
    for client in silent:
        client.close()

    assert status == 200
    assert waited < 4  # In turns, twenty would hold two threads for five seconds.
    assert ends == {b""}


def _seconds_beside_an_open_connection(server: Server) -> float:
    """Return the time of a request while another client does not close."""
    last = PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with server.connect() as lingering:
        lingering.sendall(last)
        assert lingering.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        assert server.ask(PING).status == 200
        return time.monotonic() - began


def test_a_client_that_does_not_close_delays_no_request(server: Server) -> None:
    """H15: a thread lingers, and the main loop goes on accepting."""
    # It would take 2 s each time.  A machine that stands still does so once.
    assert any(_seconds_beside_an_open_connection(server) < 1.5 for _ in range(3))
