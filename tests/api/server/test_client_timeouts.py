"""No client keeps a thread of the server for longer than it may."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint
from api.http.body import SlowClientError
from api.server.client_timeouts import DeadlineSocket
from signer.config.settings import Settings
from tests.api.live_server import Answer, Server, exchange, service_environ


SECONDS = 0.5
"""As long as the worker of these tests waits; the shipped one waits for ten."""

# Spelled so that it gets no probe's thread, but one of those that all requests share.
PING = b"GET /healthz? HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[DeadlineSocket, socket.socket]]:
    """The server's end of a connection, with a fifth of a second, and the client's."""
    ours, theirs = socket.socketpair()
    with DeadlineSocket(ours, 0.2) as server, theirs:
        server.setblocking(True)
        yield server, theirs


Ends = tuple[DeadlineSocket, socket.socket]


def test_pieces_share_their_time(ends: Ends) -> None:
    """A byte now and then does not begin the time anew; another request does."""
    server, client = ends
    server._read_seconds_left = 0.05
    client.send(b"a")

    assert server.recv(1) == b"a"
    for _ in range(2):
        with pytest.raises(SlowClientError):
            server.recv(1)
    server.reset_deadline()
    client.send(b"b")
    assert server.recv(1) == b"b"


def test_thinking_costs_the_client_nothing(ends: Ends) -> None:
    """Only waiting counts, so that a slow chain makes no client slow."""
    server, client = ends
    client.send(b"ab")

    assert server.recv(1) == b"a"
    time.sleep(0.3)
    assert server.recv(1) == b"b"
    server.sendall(b"c")
    assert client.recv(1) == b"c"


def test_an_answer_that_nobody_takes(ends: Ends) -> None:
    """Who does not read is left as one who has gone, for good."""
    server, _ = ends

    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            server.sendall(bytes(10_000_000))


def test_a_word_that_nobody_takes(ends: Ends) -> None:
    """What gunicorn sends by itself, ``100 Continue``, waits no longer either."""
    ours, _ = ends
    began = time.monotonic()
    taken = [1]

    def speak() -> None:
        while taken[-1]:
            taken.append(ours.send(bytes(1 << 16)))

    with pytest.raises(BrokenPipeError):
        speak()

    assert time.monotonic() - began < 5


def test_who_set_a_timeout_has_his_own(ends: Ends) -> None:
    """gunicorn's deadlines stay what they are, and raise what it expects."""
    server, client = ends
    server.settimeout(0.01)

    with pytest.raises(TimeoutError):
        server.recv(1)
    with pytest.raises(TimeoutError):
        server.sendall(bytes(10_000_000))
    server.setblocking(False)
    client.send(b"a")
    assert server.recv(1) == b"a"


def test_leave_is_taken_once(ends: Ends) -> None:
    """The client hears the end, and nobody waits for it a second time."""
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
    """The environment of a service with a ledger, keys and two threads."""
    folder = tmp_path_factory.mktemp("timeouts")
    return service_environ(folder, _sqlite_template) | {"WEB_THREADS": "2"}


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    """A server with two threads: two slow clients would be enough."""
    with Server(environ, config="python:tests.api.impatient") as server:
        assert server.ask(PING).status == 200
        yield server
        assert server.stop() == 0
        assert server.errors() == ""


@pytest.fixture
def head(environ: dict[str, str]) -> bytes:
    """The head of a good POST, all but the header that says how long it is."""
    token = mint(Settings.from_env(environ), subject="gateway-1", roles=["merchant"])
    return (
        "POST /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        "Idempotency-Key: slow\r\n"
    ).encode()


def _dribbled(server: Server, start: bytes) -> tuple[Answer, float]:
    """Send *start*, then a byte every tenth of a second; return what came, and when."""
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
    answer, waited = _dribbled(server, start)

    assert (answer.status, answer.json["code"]) == (408, "request-timeout")
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["connection"] == "close"
    assert 0.9 * SECONDS < waited < 20  # The client would go on for 30 s.
    assert server.ask(PING).status == 200


def test_a_slow_header(server: Server) -> None:
    """H15: a thread is free again when the time is up, and the client told."""
    _assert_late(server, b"GET /healthz HTTP/1.1\r\nX: ")


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 16000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e80\r\n"],
)
def test_a_slow_body(server: Server, head: bytes, framing: bytes) -> None:
    """H15: a body that dribbles in is a 408, announced or chunked."""
    _assert_late(server, head + framing)


def test_silence_holds_no_thread(server: Server) -> None:
    """H15: who connects and says nothing waits without a thread, and not for ever."""
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


def _asked_beside_a_lingerer(server: Server) -> float:
    """Return how long a request takes while somebody else does not hang up."""
    last = PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with server.connect() as lingering:
        lingering.sendall(last)
        assert lingering.recv(12) == b"HTTP/1.1 200"
        began = time.monotonic()
        assert server.ask(PING).status == 200
        return time.monotonic() - began


def test_who_does_not_hang_up_stops_nobody(server: Server) -> None:
    """H15: the main loop goes on accepting while a thread takes leave of a client."""
    # It would take 2 s each time.  A machine that stands still does so once.
    assert any(_asked_beside_a_lingerer(server) < 1.5 for _ in range(3))


def _asked_in_pieces(server: Server) -> list[int]:
    """Return the statuses of requests that take a quarter of their time each."""
    statuses = []
    with server.connect() as client:
        for _ in range(5):
            client.sendall(PING[:10])
            time.sleep(0.25 * SECONDS)
            statuses.append(exchange(client, [PING[10:]]).status)
            if statuses[-1] != 200:
                break
    return statuses


def test_slow_and_in_time(server: Server) -> None:
    """Each request of a connection has the whole time for itself."""
    # A machine that stands still makes a client late, but not every time.
    assert any(_asked_in_pieces(server) == [200] * 5 for _ in range(3))
