"""The fault proxy commits the fault that was planned, and no other."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dev.rpc import RPC
from tests.crash.control import RemotePlan
from tests.crash.faults import (
    CUT,
    DROP_REPLY,
    GATEWAY_TIMEOUT,
    HALF_CLOSE,
    LOST_REPLIES,
    PASS,
    RESET,
    RESET_REPLY,
    Fault,
    Kind,
    Plan,
)
from tests.crash.proxy import Proxy
from tests.crash.wires import TCP


class Counting(ThreadingHTTPServer):
    """A node that counts: every answer is how many questions it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked = list[str]()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Counting

    def do_POST(self) -> None:
        """Count the question, and say how many there were."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        call = json.loads(body)
        self.server.asked.append(call["method"])
        answer = {"jsonrpc": "2.0", "id": call["id"], "result": len(self.server.asked)}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def node() -> Iterator[Counting]:
    """A node behind the proxy."""
    with Counting() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(node: Counting) -> Iterator[Proxy]:
    """A proxy before the node."""
    with Proxy(f"http://127.0.0.1:{node.server_address[1]}") as running:
        yield running


@pytest.fixture
def rpc(proxy: Proxy) -> RPC:
    """A client of the proxy."""
    return RPC(proxy.url, timeout=3)


@contextmanager
def _echo() -> Iterator[tuple[int, list[bytes]]]:
    """Run a TCP server that answers each chunk with the same; yield what it heard."""
    heard = list[bytes]()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while chunk := connection.recv(1024):
                    heard.append(chunk)
                    connection.sendall(chunk)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_passes_what_is_not_planned(rpc: RPC, node: Counting) -> None:
    """Without a plan, questions and answers go through."""
    assert [rpc("eth_chainId"), rpc("eth_chainId")] == [1, 2]
    assert node.asked == ["eth_chainId"] * 2


@pytest.mark.parametrize("fault", LOST_REPLIES, ids=lambda fault: str(fault.kind))
def test_loses_a_reply(rpc: RPC, node: Counting, proxy: Proxy, fault: Fault) -> None:
    """The node acted once, the client has no answer, and the next request passes."""
    proxy.plan.script("eth_sendRawTransaction", fault)

    with pytest.raises((OSError, http.client.HTTPException, ValueError)):
        rpc("eth_sendRawTransaction")

    assert node.asked == ["eth_sendRawTransaction"]
    assert rpc("eth_sendRawTransaction") == 2


@pytest.mark.parametrize("status", [429, 502, 504])
def test_answers_like_a_gateway(
    rpc: RPC, node: Counting, proxy: Proxy, status: int
) -> None:
    """The client gets the status, and the node hears nothing."""
    proxy.plan.script("eth_call", Fault(Kind.STATUS, status=status))

    with pytest.raises(OSError, match=str(status)):
        rpc("eth_call")

    assert node.asked == []


def test_resets(rpc: RPC, node: Counting, proxy: Proxy) -> None:
    """A reset connection reaches nobody."""
    proxy.plan.script("eth_call", RESET)

    with pytest.raises(ConnectionResetError):
        rpc("eth_call")

    assert node.asked == []


def test_delays(rpc: RPC, proxy: Proxy) -> None:
    """A delayed request takes so much longer, and is answered."""
    proxy.plan.script("eth_call", Fault(Kind.DELAY, seconds=0.3))
    began = time.monotonic()

    assert rpc("eth_call") == 1
    assert time.monotonic() - began >= 0.3


def test_answers_with_the_past(rpc: RPC, node: Counting, proxy: Proxy) -> None:
    """A stale read has the old result and the new id; writes are never stale."""
    first = rpc("eth_blockNumber")
    time.sleep(0.1)
    second = rpc("eth_blockNumber")
    proxy.plan.script("eth_blockNumber", *[Fault(Kind.STALE, seconds=0.05)] * 2)
    proxy.plan.script("eth_sendRawTransaction", Fault(Kind.STALE, seconds=0.05))

    assert (first, second) == (1, 2)
    assert rpc("eth_blockNumber") == 1
    assert rpc("eth_sendRawTransaction") == 3
    assert node.asked == ["eth_blockNumber"] * 2 + ["eth_sendRawTransaction"]


def test_blacks_out(rpc: RPC, proxy: Proxy) -> None:
    """While it is dark nobody gets through, and afterwards everybody."""
    proxy.plan.blackout(0.3)

    with pytest.raises(OSError, match="reset"):
        rpc("eth_call")
    time.sleep(0.35)

    assert rpc("eth_call") == 1


def test_names_kms_operations(proxy: Proxy, node: Counting) -> None:
    """A KMS request is called after its operation."""
    proxy.plan.script("Sign", RESET)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=3)

    connection.request("POST", "/", b"{}", {"X-Amz-Target": "TrentService.Sign"})
    with pytest.raises(ConnectionResetError):
        connection.getresponse()
    connection.close()

    assert node.asked == []


@pytest.mark.parametrize(
    ("fault", "heard", "answer"),
    [
        (PASS, [b"COMMIT"], b"COMMIT"),
        (DROP_REPLY, [b"COMMIT"], b""),
        (HALF_CLOSE, [b"COMMIT"], b""),
        (Fault(Kind.TRUNCATE, size=3), [b"COMMIT"], b"COM"),
        (RESET, [], None),
        (RESET_REPLY, [b"COMMIT"], None),
    ],
    ids=lambda value: str(value.kind) if isinstance(value, Fault) else "",
)
def test_breaks_any_protocol(
    fault: Fault, heard: list[bytes], answer: bytes | None
) -> None:
    """In TCP mode, a chunk is a request; None stands for a reset."""
    with _echo() as (port, server), Proxy(f"tcp://127.0.0.1:{port}") as proxy:
        proxy.plan.script(TCP, fault)
        with socket.create_connection(("127.0.0.1", proxy.port), 3) as client:
            client.sendall(b"COMMIT")
            got: bytes | None
            try:
                got = client.recv(64)
            except ConnectionResetError:
                got = None

        assert (got, server) == (answer, heard)


def test_obeys_another_process(proxy: Proxy, rpc: RPC) -> None:
    """Everything that a plan can do can be done through the control port."""
    with RemotePlan(proxy.control_port) as plan:
        plan.script("eth_call", RESET)
        with pytest.raises(OSError, match="reset"):
            rpc("eth_call")
        plan.seed(1, ((DROP_REPLY, 1.0),), only=frozenset({"eth_gasPrice"}))
        with pytest.raises(http.client.RemoteDisconnected):
            rpc("eth_gasPrice")
        plan.blackout(60)
        with pytest.raises(OSError, match="reset"):
            rpc("eth_chainId")
        plan.heal()
        rpc("eth_gasPrice")
        committed = plan.committed()

    assert committed == {
        ("eth_call", Kind.RESET): 1,
        ("eth_gasPrice", Kind.DROP_REPLY): 1,
        ("eth_gasPrice", Kind.PASS): 1,
    }


def _drawn(seed: int) -> list[Fault]:
    plan = Plan()
    plan.seed(seed, ((DROP_REPLY, 0.3), (CUT, 0.3), (GATEWAY_TIMEOUT, 0.1)))
    return [plan.next("eth_call") for _ in range(99)]


def test_a_seed_replays() -> None:
    """The same seed deals the same faults to the same requests."""
    assert _drawn(7) == _drawn(7)
    assert _drawn(7) != _drawn(8)
    assert set(_drawn(7)) == {PASS, DROP_REPLY, CUT, GATEWAY_TIMEOUT}
