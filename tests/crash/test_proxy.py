"""The fault proxy injects exactly the planned faults."""

import http.client
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from dev.rpc import RPC
from tests.crash.fault_plan import (
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
from tests.crash.proxy_connections import TCP
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Result


_SEND = "eth_sendRawTransaction"


class Clock:
    """A clock that moves when the proxy sleeps or the test moves it."""

    now = 0.0

    async def sleep(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A node whose results count the calls of each method."""
    methods = ("eth_chainId", "eth_blockNumber", "eth_call", "eth_gasPrice", _SEND)
    with FakeNode() as running:
        for method in methods:
            running.script(method, *map(Result, range(1, 10)))
        yield running
    assert running.violations == []


@pytest.fixture
def proxy(node: FakeNode, clock: Clock) -> Iterator[Proxy]:
    """A proxy before the node, whose time passes only by ``clock``."""
    with Proxy(node.url, clock=lambda: clock.now, sleep=clock.sleep) as running:
        yield running


@pytest.fixture
def rpc(proxy: Proxy) -> RPC:
    return RPC(proxy.url, timeout=3)


def _methods(node: FakeNode) -> list[str]:
    return [request.method for request in node.requests]


class Echo(socketserver.BaseRequestHandler):
    """Sends each chunk back, and notes it."""

    def handle(self) -> None:
        """Serve a connection until it ends."""
        while chunk := self.request.recv(1024):
            self.server.received.append(chunk)  # type: ignore[attr-defined]
            self.request.sendall(chunk)


class EchoServer(socketserver.ThreadingTCPServer):
    """A TCP server for any protocol."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.received = list[bytes]()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """A server whose protocol the proxy does not parse."""
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_requests_without_a_fault_pass(rpc: RPC, node: FakeNode) -> None:
    """Without a plan, requests and responses are unchanged."""
    assert [rpc("eth_chainId"), rpc("eth_chainId")] == [1, 2]
    assert _methods(node) == ["eth_chainId"] * 2


@pytest.mark.parametrize("fault", LOST_REPLIES, ids=lambda fault: str(fault.kind))
def test_a_reply_is_lost(rpc: RPC, node: FakeNode, proxy: Proxy, fault: Fault) -> None:
    """The node acted once, the client has no response, and the next request passes."""
    proxy.plan.script(_SEND, fault)

    with pytest.raises((OSError, http.client.HTTPException, ValueError)):
        rpc(_SEND)

    assert _methods(node) == [_SEND]
    assert rpc(_SEND) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (RESET, "reset"),
        *((Fault(Kind.STATUS, status=each), str(each)) for each in (429, 502, 504)),
    ],
    ids=["reset", "429", "502", "504"],
)
def test_a_request_does_not_arrive(
    rpc: RPC, node: FakeNode, proxy: Proxy, fault: Fault, error: str
) -> None:
    """The connection is reset, or the client gets the status of a gateway."""
    proxy.plan.script("eth_call", fault)

    with pytest.raises(OSError, match=error):
        rpc("eth_call")

    assert _methods(node) == []


def test_a_request_is_delayed(rpc: RPC, proxy: Proxy, clock: Clock) -> None:
    """The proxy sleeps before it forwards the request."""
    proxy.plan.script("eth_call", Fault(Kind.DELAY, seconds=0.3))

    assert rpc("eth_call") == 1
    assert clock.now == 0.3


def test_a_read_is_stale(rpc: RPC, node: FakeNode, proxy: Proxy, clock: Clock) -> None:
    """It has the old result and the new id; writes are never stale."""
    first = rpc("eth_blockNumber")
    clock.now += 0.1
    second = rpc("eth_blockNumber")
    proxy.plan.script("eth_blockNumber", *[Fault(Kind.STALE, seconds=0.05)] * 2)
    proxy.plan.script(_SEND, Fault(Kind.STALE, seconds=0.05))

    assert (first, second) == (1, 2)
    assert rpc("eth_blockNumber") == 1
    assert rpc(_SEND) == 1
    assert _methods(node) == ["eth_blockNumber"] * 2 + [_SEND]


def test_a_blackout_ends(rpc: RPC, proxy: Proxy, clock: Clock) -> None:
    """Connections are reset until the blackout ends."""
    proxy.plan.blackout(0.3)

    with pytest.raises(OSError, match="reset"):
        rpc("eth_call")
    clock.now += 0.35

    assert rpc("eth_call") == 1


def test_a_kms_request_has_the_name_of_its_operation(
    proxy: Proxy, node: FakeNode
) -> None:
    """A script for ``Sign`` applies to it."""
    proxy.plan.script("Sign", RESET)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=3)

    connection.request("POST", "/", b"{}", {"X-Amz-Target": "TrentService.Sign"})
    with pytest.raises(ConnectionResetError):
        connection.getresponse()
    connection.close()

    assert _methods(node) == []


@pytest.mark.parametrize(
    ("fault", "received", "answer"),
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
def test_faults_apply_to_any_protocol(
    echo: EchoServer, fault: Fault, received: list[bytes], answer: bytes | None
) -> None:
    """In TCP mode, a chunk is a request; None stands for a reset."""
    with Proxy(f"tcp://127.0.0.1:{echo.server_address[1]}") as proxy:
        proxy.plan.script(TCP, fault)
        with socket.create_connection(("127.0.0.1", proxy.port), 3) as client:
            client.sendall(b"COMMIT")
            got: bytes | None
            try:
                got = client.recv(64)
            except ConnectionResetError:
                got = None

    assert (got, echo.received) == (answer, received)


def test_a_plan_counts_the_faults_and_heals(proxy: Proxy, rpc: RPC) -> None:
    """A script, odds for some names and a blackout all end with ``heal``."""
    plan = proxy.plan
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

    assert plan.injected() == {
        ("eth_call", Kind.RESET): 1,
        ("eth_gasPrice", Kind.DROP_REPLY): 1,
        ("eth_gasPrice", Kind.PASS): 1,
    }


def _draw(seed: int) -> list[Fault]:
    plan = Plan()
    plan.seed(seed, ((DROP_REPLY, 0.3), (CUT, 0.3), (GATEWAY_TIMEOUT, 0.1)))
    return [plan.next("eth_call") for _ in range(99)]


def test_a_seed_replays() -> None:
    """The same seed draws the same faults for the same requests."""
    assert _draw(7) == _draw(7)
    assert _draw(7) != _draw(8)
    assert set(_draw(7)) == {PASS, DROP_REPLY, CUT, GATEWAY_TIMEOUT}
