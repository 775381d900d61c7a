"""A client that keeps the service's threads busy, with requests that are allowed."""

import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from urllib.parse import urlencode

import psycopg
import pytest

from api.auth.dev_tokens import mint
from api.extras.signing_api.methods import MAX_RESULT
from signer.config.settings import Settings
from signer.refunds.service import WORKER_SECONDS
from tests.api.live_server import PING, Server, exchange, service_environ
from tests.api.service import BODY, NETWORKS, RECIPIENT
from tests.api.wsgi import NODE, STORE_SECONDS, WITHOUT_WORKER
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Computed, Result
from tests.support.waiting import eventually


@pytest.fixture
def environ(tmp_path: Path, _sqlite_template: Path) -> dict[str, str]:
    """The environment of a service with four threads."""
    return service_environ(tmp_path, _sqlite_template) | {"WEB_THREADS": "4"}


@pytest.fixture
def server(environ: dict[str, str]) -> Iterator[Server]:
    """A service that has answered its first request."""
    with Server(environ) as server:
        assert server.ask(_post(environ, "warm-up", "1")).status == 201
        yield server


def _post(environ: dict[str, str], client: str, key: str, *headers: str) -> bytes:
    """Return a request for a refund, which no node confirms."""
    body = json.dumps(BODY | {"reference": key}).encode()
    lines = [
        "POST /v1/refunds HTTP/1.1",
        *_headers(environ, client),
        f"Idempotency-Key: {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _get(environ: dict[str, str], client: str, path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", *_headers(environ, client), *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def _headers(environ: dict[str, str], client: str) -> list[str]:
    token = mint(Settings.from_env(environ), subject=client, roles=["merchant"])
    return ["Host: localhost", f"Authorization: Bearer {token}"]


def _flood(
    stack: ExitStack, server: Server, count: int, request: bytes
) -> list[socket.socket]:
    """Return *count* sockets that have sent *request*."""
    sockets = [stack.enter_context(server.connect()) for _ in range(count)]
    for each in sockets:
        each.sendall(request)
    return sockets


def _silent(sockets: list[socket.socket]) -> set[socket.socket]:
    """Return the sockets whose request is not answered yet."""
    answered, _, _ = select.select(sockets, [], [], 0)
    return {*sockets} - {*answered}


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_waiting_requests_leave_threads_for_others(
    server: Server, environ: dict[str, str], method: str
) -> None:
    """Twelve sockets of one client ask to wait; another is answered while one does."""
    path = server.ask(_post(environ, "mallory", "first")).headers["location"]
    with ExitStack() as stack:
        sockets = [stack.enter_context(server.connect()) for _ in range(12)]
        for number, each in enumerate(sockets):
            each.sendall(
                _post(environ, "mallory", f"key-{number}", "Prefer: wait=20")
                if method == "POST"
                else _get(environ, "mallory", path, "Prefer: wait=20")
            )
        assert eventually(lambda: len(_silent(sockets)) == 1, patience=10)
        paid = server.ask(_post(environ, "alice", "1"))
        shown = server.ask(_get(environ, "alice", paid.headers["location"]))
        (waiting,) = _silent(sockets)
        others = [exchange(each, []) for each in sockets if each is not waiting]

    assert (paid.status, shown.status) == (201, 200)
    assert {answer.status for answer in others} == {201 if method == "POST" else 200}
    assert all("preference-applied" not in answer.headers for answer in others)


def test_a_missing_worker_leaves_a_thread(environ: dict[str, str]) -> None:
    """
    Twelve refunds of one client wait for a worker that is down.

    Three of the four threads wait for three seconds.  Meanwhile the last answers the
    other nine, and another client.
    """
    environ[WITHOUT_WORKER] = "1"
    with Server(environ) as server, ExitStack() as stack:
        assert server.ask(PING).status == 200
        sockets = [stack.enter_context(server.connect()) for _ in range(12)]
        began = time.monotonic()
        for number, each in enumerate(sockets):
            each.sendall(_post(environ, "mallory", f"key-{number}"))
        assert eventually(lambda: len(_silent(sockets)) == 3, patience=10)
        paid = server.ask(_post(environ, "alice", "1"))
        shown = server.ask(_get(environ, "alice", paid.headers["location"]))
        waiting = len(_silent(sockets))
        seconds = time.monotonic() - began
        answers = [exchange(each, []) for each in sockets]

    assert waiting == 3 or seconds > WORKER_SECONDS  # A loaded machine is slow.
    assert (paid.status, shown.status) == (201, 200)
    assert [(each.status, each.json["status"]) for each in answers] == [
        (201, "queued")
    ] * 12


def test_two_clients_may_wait_at_the_same_time(
    server: Server, environ: dict[str, str]
) -> None:
    """One client's waiting request does not keep another's from waiting."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(server.connect()) for _ in range(3)]
        for client, each in zip("abc", sockets, strict=True):
            each.sendall(_post(environ, client, "1", "Prefer: wait=3"))
        answers = [exchange(each, []) for each in sockets]

    applied = [answer.headers.get("preference-applied") for answer in answers]
    assert {answer.status for answer in answers} == {201}
    assert sorted(map(str, applied)) == ["None", "wait=3", "wait=3"]


@pytest.fixture
def released() -> Iterator[Event]:
    """What the node waits for before it answers what tenants ask."""
    event = Event()
    yield event
    event.set()


@pytest.fixture
def node(released: Event) -> Iterator[FakeNode]:
    """A node that answers what readiness asks at once."""
    block = {"number": "0x1", "hash": "0x" + "ab" * 32, "baseFeePerGas": "0x7"}
    with FakeNode() as node:
        node.script("eth_chainId", Result(hex(NETWORKS["local"].chain_id)))
        node.script("eth_getCode", Result("0x60"))
        node.script("eth_getBlockByNumber", Result(block))
        node.script("eth_call", Computed(lambda _: f"0x{6:064x}"))
        node.script("eth_getTransactionCount", Result("0x0"))
        node.script("eth_maxPriorityFeePerGas", Result("0x1"))
        node.script("eth_estimateGas", Result("0xc350"))
        node.script("eth_getBalance", Computed(lambda _: released.wait() and "0x1"))
        yield node


def _preview(environ: dict[str, str], client: str) -> bytes:
    body = json.dumps(BODY).encode()
    lines = [
        "POST /v1/refunds/preview HTTP/1.1",
        *_headers(environ, client),
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _read(environ: dict[str, str], client: str) -> bytes:
    """Return a batch that reads four balances."""
    return _rpc(environ, client, 4, "eth_getBalance", RECIPIENT)


def _rpc(
    environ: dict[str, str], client: str, count: int, method: str, *params: object
) -> bytes:
    """Return a batch of so many equal calls."""
    call = {"jsonrpc": "2.0", "method": method, "params": params}
    body = json.dumps([call | {"id": number} for number in range(count)]).encode()
    settings = Settings.from_env(environ)
    token = mint(settings, subject=client, roles=["signer"])
    lines = [
        "POST /rpc HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("make", [_preview, _read], ids=["previews", "reads"])
def test_a_slow_node_delays_only_the_tenant_that_asks_it(
    environ: dict[str, str],
    node: FakeNode,
    released: Event,
    make: Callable[[dict[str, str], str], bytes],
) -> None:
    """
    Forty sockets of one tenant ask a node that does not answer.

    Two of the four threads wait for it.  Meanwhile the others refuse the rest, list
    another tenant's refunds, and answer ``/readyz`` with 200.
    """
    environ |= {NODE: node.url, WITHOUT_WORKER: "1"}
    asked = make(environ, "mallory")
    with Server(environ) as server, ExitStack() as stack:
        assert server.ask(PING).status == 200
        assert eventually(lambda: _is_ready(server), patience=60, pause=0.1)
        sockets = _flood(stack, server, 40, asked)
        assert eventually(lambda: len(_silent(sockets)) == 2, patience=60)
        listed = server.ask(_get(environ, "alice", "/v1/refunds"))
        is_ready = _is_ready(server)
        waiting = _silent(sockets)
        released.set()
        answers = {each: exchange(each, []) for each in sockets}

    assert (listed.status, is_ready, len(waiting)) == (200, True, 2)
    assert {answers[each].status for each in waiting} == {200}
    assert {each.status for each in answers.values()} <= {200, 429}


_COPIES = 5
"""How often an answer is in memory: results, JSON, bytes, and what a node sent."""


def test_large_answers_of_one_tenant_take_bounded_memory(
    environ: dict[str, str], node: FakeNode
) -> None:
    """
    Forty sockets of one tenant read logs of 20 MB each.

    Two of the four threads do so, and each keeps at most 4 MiB of results.
    """
    node.script("eth_getLogs", Result(100 * [{"data": "0x" + 1_000 * "ab"}]))
    environ |= {NODE: node.url, WITHOUT_WORKER: "1"}
    blocks = {"fromBlock": "0x0", "toBlock": "0x1"}
    small, large = (
        _rpc(environ, "mallory", count, "eth_getLogs", blocks) for count in (1, 100)
    )
    with Server(environ) as server, ExitStack() as stack:
        assert server.ask(small).status == 200
        before = server.peak_memory()
        sockets = [stack.enter_context(server.connect()) for _ in range(40)]
        with ThreadPoolExecutor(len(sockets)) as pool:
            answers = [*pool.map(lambda each: exchange(each, [large]), sockets)]
        grown = server.peak_memory() - before

    largest = max(len(answer.body) for answer in answers)
    assert {answer.status for answer in answers} == {200}
    assert grown < 2 * _COPIES * MAX_RESULT
    assert MAX_RESULT / 2 < largest < MAX_RESULT * 1.1


def _is_ready(server: Server) -> bool:
    return server.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200


def test_previews_of_a_tenant_wait_for_their_turn(
    environ: dict[str, str], node: FakeNode, released: Event
) -> None:
    """
    Forty sockets of one of two known tenants ask a node that does not answer.

    Two of the four threads wait for it, and sixteen requests without a thread.  The
    rest are refused at once.  None of them uses a thread that the other tenant needs.
    """
    environ |= {NODE: node.url, WITHOUT_WORKER: "1"}
    asked = _preview(environ, "mallory")
    token = asked.split(b"\r\n")[2]
    listed = _get(environ, "alice", "/v1/refunds")
    known = _get(environ, "mallory", "/v1/refunds").split(b"\r\n")
    known[2] = token
    with Server(environ) as server, ExitStack() as stack:
        assert server.ask(PING).status == 200
        assert server.ask(listed).status == 200
        assert server.ask(b"\r\n".join(known)).status == 200
        sockets = _flood(stack, server, 40, asked)
        assert eventually(lambda: len(_silent(sockets)) <= 18, patience=60)
        shown = server.ask(listed)
        waiting = _silent(sockets)
        assert len(waiting) == 18
        released.set()
        answers = {each: exchange(each, []) for each in sockets}

    refused = [answers[each] for each in sockets if each not in waiting]
    assert shown.status == 200
    assert {answers[each].status for each in waiting} == {200}
    assert {(each.status, each.json["code"]) for each in refused} == {
        (429, "too-many-requests")
    }
    assert {each.headers["retry-after"] for each in refused} == {"1"}


_TENANTS = """
[tenants.mallory]
subjects = ["mallory"]

[tenants.alice]
subjects = ["alice"]
"""


def test_many_new_tokens_delay_only_new_tokens_of_their_tenant(
    environ: dict[str, str], node: FakeNode, released: Event, tmp_path: Path
) -> None:
    """
    Forty sockets of a tenant, each with a new token, ask a node that does not answer.

    The process has verified none of these tokens.  One of the four threads waits for
    the node; another tenant's request with a new token is answered meanwhile.
    """
    (tmp_path / "tenants.toml").write_text(_TENANTS)
    environ |= {NODE: node.url, WITHOUT_WORKER: "1"}
    environ["TENANTS_FILE"] = str(tmp_path / "tenants.toml")
    with Server(environ) as server, ExitStack() as stack:
        assert server.ask(PING).status == 200
        for client in ("mallory", "alice"):
            assert server.ask(_get(environ, client, "/v1/refunds")).status == 200
        sockets = [stack.enter_context(server.connect()) for _ in range(40)]
        for each in sockets:
            each.sendall(_preview(environ, "mallory"))
        assert eventually(lambda: len(_silent(sockets)) <= 17, patience=60)
        shown = server.ask(_get(environ, "alice", "/v1/refunds"))
        waiting = _silent(sockets)
        released.set()
        answers = [exchange(each, []) for each in sockets]

    assert (shown.status, len(waiting)) == (200, 17)
    assert {each.status for each in answers} == {200, 429}


def test_one_tenant_leaves_database_connections_to_others(
    environ: dict[str, str], postgresql_url: str, tmp_path: Path
) -> None:
    """
    Forty sockets of a tenant list refunds while their table is locked.

    Half of the process's connections wait for the lock.  Another tenant's events are
    answered before any of these lists.
    """
    (tmp_path / "tenants.toml").write_text(_TENANTS)
    # Longer than any test: neither the server nor the client gives up first.
    limits = "-c statement_timeout=0 -c lock_timeout=0"
    url = f"{postgresql_url}&{urlencode({'options': limits})}"
    environ |= {"DATABASE_URL": url, STORE_SECONDS: "600", WITHOUT_WORKER: "1"}
    environ |= {"WEB_THREADS": "32", "TENANTS_FILE": str(tmp_path / "tenants.toml")}
    listed, shown = (
        _get(environ, client, path)
        for client, path in (("mallory", "/v1/refunds"), ("alice", "/v1/events"))
    )
    with (
        Server(environ) as server,
        psycopg.connect(postgresql_url) as outside,
        ExitStack() as stack,
    ):
        assert server.ask(listed).status == 200
        assert server.ask(shown).status == 200
        outside.execute("LOCK TABLE refunds IN ACCESS EXCLUSIVE MODE")
        sockets = _flood(stack, server, 40, listed)
        assert eventually(lambda: _waiting_for_locks(outside) >= 4, patience=60)
        other = stack.enter_context(server.connect())
        other.sendall(shown)
        assert eventually(lambda: not _silent([other]), patience=30)
        waiting, held = _silent(sockets), _waiting_for_locks(outside)
        outside.rollback()
        answer = exchange(other, [])
        answers = [exchange(each, []) for each in sockets]

    assert (answer.status, len(waiting), held) == (200, 40, 4)
    assert {each.status for each in answers} == {200}


def _waiting_for_locks(connection: psycopg.Connection) -> int:
    """Return how many other connections to the database wait for a lock."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    (row,) = connection.execute(query).fetchall()
    return int(row[0])
