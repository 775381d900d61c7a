"""Nodes that lied, failed or are on another chain are asked last, or not at all."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from structlog.typing import EventDict

from backends.json_rpc import quorum, requests
from backends.json_rpc.node import Node
from backends.json_rpc.node_pool import NodePool
from backends.json_rpc.tracked_node import TrackedNode
from signer.errors import ChainError, ChainUnavailableError
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drop, Error, Result
from tests.support.rpc import (
    ADDRESS,
    CALL,
    HASH,
    RAW,
    RECEIPT,
    REVERTED,
    Three,
    broadcast,
    client,
    receipt_of,
    script_all,
    script_receipts,
)
from tests.support.waiting import eventually


@pytest.fixture
def events() -> Iterator[list[EventDict]]:
    """Return the log events."""
    with capture_logs() as captured:
        yield captured


def test_a_node_that_contradicts_the_majority_is_distrusted(
    three_nodes: Three, events: list[EventDict]
) -> None:
    """It gets no requests, and the log has its number instead of its URL."""
    liar = three_nodes[0]
    script_receipts(
        three_nodes, Result(REVERTED), Result(RECEIPT), Delay(0.1, Result(RECEIPT))
    )
    for node in three_nodes:
        node.script("eth_getBalance", Result("0x5"))
    chain = client(*three_nodes, chain_id=None)

    receipt_of(chain, HASH)
    receipt_of(chain, HASH)
    chain.balance(ADDRESS)

    assert len(liar.requests) == 1
    assert len(three_nodes[1].calls("eth_getBalance")) == 1
    assert events == [
        {
            "event": "node-distrusted",
            "log_level": "warning",
            "node": 1,
            "chain_id": None,
            "reason": "contradiction",
        }
    ]


def test_a_late_lie_is_detected(three_nodes: Three, events: list[EventDict]) -> None:
    """A result that arrives after the quorum is judged, too."""
    script_receipts(
        three_nodes, Result(RECEIPT), Result(RECEIPT), Delay(0.2, Result(REVERTED))
    )
    chain = client(*three_nodes)

    assert receipt_of(chain, HASH) is not None
    assert events == []
    assert eventually(lambda: [event["node"] for event in events] == [3])


def test_a_late_node_is_trusted(three_nodes: Three, events: list[EventDict]) -> None:
    """It is outvoted, and asked again."""
    late = three_nodes[2]
    script_receipts(
        three_nodes, Delay(0.1, Result(RECEIPT)), Result(RECEIPT), Result(None)
    )
    chain = client(*three_nodes)

    assert receipt_of(chain, HASH) is not None
    assert receipt_of(chain, HASH) is not None
    assert len(late.requests) == 2
    assert events == []


def test_another_hash_is_a_lie(
    fake_node: FakeNode, other_node: FakeNode, events: list[EventDict]
) -> None:
    """A node that returns another hash for a broadcast is distrusted (R25)."""
    fake_node.script("eth_sendRawTransaction", Result("0x" + "11" * 32))
    other_node.script("eth_sendRawTransaction", Delay(0.1, Result(HASH)))
    chain = client(fake_node, other_node)

    broadcast(chain, RAW)
    broadcast(chain, RAW)

    assert len(fake_node.requests) == 1
    assert [event["reason"] for event in events] == ["impossible-answer"]


def test_a_single_node_is_always_asked(
    fake_node: FakeNode, events: list[EventDict]
) -> None:
    """Its next response may be correct."""
    fake_node.script(
        "eth_sendRawTransaction", Result("0x" + "11" * 32), Drop(), Drop(), Result(HASH)
    )
    chain = client(fake_node)
    for _ in range(2):
        with pytest.raises(ChainUnavailableError):
            broadcast(chain, RAW)

    broadcast(chain, RAW)

    assert len(events) == 1


@pytest.mark.parametrize("count", [2, 3])
def test_a_node_on_another_chain_does_not_count(
    three_nodes: Three, events: list[EventDict], count: int
) -> None:
    """A node gets no requests and no transactions before its chain id is checked."""
    nodes = three_nodes[:count]
    for node in nodes:
        node.script("eth_chainId", Result("0x7"))
        node.script("eth_getTransactionReceipt", Result(RECEIPT))
        node.script("eth_sendRawTransaction", Result(HASH))
    nodes[0].script("eth_chainId", Result("0x8"))
    chain = client(*nodes, chain_id=7)

    assert receipt_of(chain, HASH) is not None
    broadcast(chain, RAW)

    assert [request.method for request in nodes[0].requests] == ["eth_chainId"]
    assert len(nodes[1].calls("eth_chainId")) == 1
    assert [(event["node"], event["reason"]) for event in events] == [(1, "chain-id")]


def test_a_single_node_on_another_chain_does_not_count(fake_node: FakeNode) -> None:
    """Requests fail until its chain id is correct."""
    fake_node.script("eth_chainId", Result("0x8"), Result("0x8"), Result("0x7"))
    fake_node.script("eth_getBalance", Result("0x5"))
    chain = client(fake_node, chain_id=7)
    for _ in range(2):
        with pytest.raises(ChainError, match="node 1 is on another chain"):
            chain.balance(ADDRESS)

    assert chain.balance(ADDRESS) == 5
    assert chain.balance(ADDRESS) == 5
    assert len(fake_node.calls("eth_chainId")) == 3


def test_checks_the_chain_id_again_after_an_outage(fake_node: FakeNode) -> None:
    """Also of a node that was down at the start."""
    fake_node.script("eth_chainId", Body(status=503), Result("0x7"), Result("0x8"))
    fake_node.script("eth_getBalance", Result("0x5"), Body(status=503), Result("0x6"))
    chain = client(fake_node, chain_id=7)

    with pytest.raises(ChainUnavailableError):
        chain.balance(ADDRESS)
    assert chain.balance(ADDRESS) == 5
    with pytest.raises(ChainUnavailableError):
        chain.balance(ADDRESS)
    with pytest.raises(ChainError, match="another chain"):
        chain.balance(ADDRESS)

    assert len(fake_node.calls("eth_getBalance")) == 2


def test_all_nodes_on_another_chain_are_distrusted(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """The first error is permanent; later ones say that no node is trusted."""
    fake_node.script("eth_chainId", Result("0x8"))
    other_node.script("eth_chainId", Result("0x8"))
    chain = client(fake_node, other_node, chain_id=7)

    with pytest.raises(ChainError, match="another chain"):
        chain.balance(ADDRESS)
    with pytest.raises(ChainUnavailableError, match="no node is trusted"):
        receipt_of(chain, HASH)


def test_a_hanging_node_delays_only_one_request(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """An unresponsive node is skipped for a while if a quorum remains."""
    fake_node.script("eth_getTransactionReceipt", Delay(60, Result(RECEIPT)))
    fake_node.script("eth_getBalance", Delay(60, Result("0x5")))
    other_node.script("eth_getTransactionReceipt", Result(RECEIPT))
    other_node.script("eth_getBalance", Result("0x5"))
    chain = client(fake_node, other_node, timeout=0.5)
    receipt_of(chain, HASH)

    assert receipt_of(chain, HASH) is not None
    assert chain.balance(ADDRESS) == 5

    assert len(fake_node.requests) == 1


def test_a_slow_node_is_skipped(fake_node: FakeNode, other_node: FakeNode) -> None:
    """Each of its responses is in time, but not their sum."""
    fake_node.script("eth_chainId", Delay(0.4, Result("0x7")))
    fake_node.script("eth_getTransactionReceipt", Delay(0.4, Result(RECEIPT)))
    other_node.script("eth_chainId", Result("0x7"))
    other_node.script("eth_getTransactionReceipt", Result(RECEIPT))
    chain = client(fake_node, other_node, timeout=0.6, chain_id=7)
    receipt_of(chain, HASH)
    requests = len(fake_node.requests)

    assert receipt_of(chain, HASH) is not None

    assert len(fake_node.requests) == requests


def test_another_chain_id_than_the_majority_is_a_lie(
    three_nodes: Three, events: list[EventDict]
) -> None:
    """The node is distrusted."""
    script_all(three_nodes, "eth_chainId", Result("0x2"), Result("0x1"), Result("0x1"))
    for node in three_nodes[1:]:
        node.script("eth_getBalance", Result("0x5"))
    chain = client(*three_nodes)

    assert chain.chain_id() == 1
    assert chain.balance(ADDRESS) == 5
    assert [(event["node"], event["reason"]) for event in events] == [(1, "chain-id")]


def test_asks_an_unresponsive_node_if_no_other_responds(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """An unresponsive node is skipped only while another one responds."""
    fake_node.script("eth_getBalance", Body(status=502), Result("0x5"))
    other_node.script("eth_getBalance", Result("0x6"), Body(status=502))
    chain = client(fake_node, other_node)

    assert chain.balance(ADDRESS) == 6
    with pytest.raises(ChainUnavailableError):
        chain.balance(ADDRESS)
    assert chain.balance(ADDRESS) == 5


def test_a_hanging_node_does_not_delay_other_callers(three_nodes: Three) -> None:
    """Fifty concurrent callers get results while a third node hangs."""
    hanging = Delay(90, Result(None))
    script_receipts(three_nodes, Result(RECEIPT), hanging, Result(RECEIPT))
    chain = client(*three_nodes, timeout=60)
    started = time.monotonic()

    with ThreadPoolExecutor(50) as callers:
        receipts = list(callers.map(lambda _: receipt_of(chain, HASH), range(50)))

    assert all(receipts)
    assert time.monotonic() - started < 30
    assert len(three_nodes[1].requests) < 50  # Its 16 threads hang.


def test_a_broadcast_waits_for_the_first_acceptance_only(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """All nodes get the bytes at the same time; a slow one finishes by itself."""
    fake_node.script("eth_sendRawTransaction", Delay(60, Result(HASH)))
    other_node.script("eth_sendRawTransaction", Error(-32000, "already known"))
    started = time.monotonic()

    broadcast(client(fake_node, other_node), RAW)

    assert time.monotonic() - started < 20
    assert eventually(partial(fake_node.calls, "eth_sendRawTransaction"))


class Clock:
    """A clock that a test sets, in seconds."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_distrust_and_unresponsiveness_end(
    fake_node: FakeNode, events: list[EventDict]
) -> None:
    """Distrust lasts a minute, and unresponsiveness ten seconds."""
    clock = Clock()
    node = TrackedNode(Node(SecretStr(fake_node.url), 1), 1, None, clock)
    fake_node.script("eth_call", Body(status=503))

    with pytest.raises(ChainUnavailableError):
        node.send(lambda node: requests.call(node, CALL))
    node.distrust("contradiction")
    node.distrust("contradiction")
    states = []
    for _ in range(7):
        states.append((node.is_responsive, node.is_trusted))
        clock.now += 10

    assert states == [(False, False), *[(True, False)] * 5, (True, True)]
    assert len(events) == 1


def test_a_node_that_refuses_a_request_stays_responsive(fake_node: FakeNode) -> None:
    """A node that responds with an error is not marked unresponsive."""
    node = TrackedNode(Node(SecretStr(fake_node.url), 1), 1, None)
    fake_node.script("eth_call", Error(-32000, "no"), Error(3, "reverted"))
    ask: Callable[[], Any] = partial(node.send, partial(requests.call, call=CALL))

    for _ in range(2):
        with pytest.raises(ChainError):
            ask()

    assert node.is_responsive
    assert NodePool([node], 1).decide(lambda _: 7, quorum.LOWER_MEDIAN) == 7
