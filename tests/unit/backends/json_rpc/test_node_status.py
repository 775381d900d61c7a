"""The status of each node does not depend on the other nodes."""

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from backends import json_rpc
from backends.json_rpc import JSONRPCChain
from signer.ports.chain import NodeStatus
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Computed, Delay, Drop, Error, Reply, Result
from tests.support.rpc import (
    ADDRESS,
    HASH,
    RECEIPT,
    REVERTED,
    Three,
    client,
    receipt_of,
    script_receipts,
)


OTHER = "0x" + "22" * 32
MINED: dict[str, Any] = {"hash": HASH, "blockHash": "0x" + "ab" * 32}
PENDING = MINED | {"blockHash": None}

BUSY = [Body(status=503), Body(status=429)]
FAILURES: dict[str, Reply] = {
    "hung-up": Drop(),
    "reset": Drop(reset=True),
    "http-503": BUSY[0],
    "http-429": BUSY[1],
    "hanging": Delay(30, Drop()),
}

UNAVAILABLE = NodeStatus("node-1", trusted=True, error="chain-unavailable")


def script(node: FakeNode, *, head: int = 16, counted: int = 5) -> None:
    """Let *node* know HASH as mined, and two pending transactions."""
    node.script("eth_chainId", Result("0x7"))
    node.script("eth_blockNumber", Result(hex(head)))
    # The members of a batch are answered from the last to the first.
    node.script(
        "eth_getTransactionCount", Result(hex(counted + 2)), Result(hex(counted))
    )
    node.script("eth_getTransactionByHash", Result(MINED))


def healthy(name: str, **changes: Any) -> NodeStatus:
    """Return the status of a node with that script."""
    fields: dict[str, Any] = {
        "trusted": True,
        "head": 16,
        "counted": 5,
        "pending": 7,
        "transactions": {HASH: "mined"},
    }
    return NodeStatus(name, **fields | changes)


def statuses_of(chain: JSONRPCChain) -> list[NodeStatus]:
    """Return the status of each node, with one transaction."""
    return list(chain.node_statuses(ADDRESS, [HASH]))


def test_a_status_takes_one_exchange(fake_node: FakeNode) -> None:
    """Head, counts and transactions come in one batch, after the chain id."""
    script(fake_node)
    fake_node.script(
        "eth_getTransactionByHash",
        Result(None),
        Result(PENDING | {"hash": OTHER}),
        Result(MINED),
    )
    unknown = "0x" + "33" * 32
    hashes = [HASH, OTHER, unknown]

    (status,) = client(fake_node, chain_id=7).node_statuses(ADDRESS, hashes)

    where = {HASH: "mined", OTHER: "pending", unknown: "unknown"}
    assert status == healthy("node-1", transactions=where)
    assert list(status.transactions) == hashes
    assert fake_node.batches == [6]
    assert fake_node.calls("eth_getTransactionCount") == [
        [ADDRESS, "latest"],
        [ADDRESS, "pending"],
    ]


def test_a_repeated_hash_is_asked_once(fake_node: FakeNode) -> None:
    """Hashes that differ only in case are the same."""
    script(fake_node)

    (status,) = client(fake_node).node_statuses(
        ADDRESS, [HASH, "0x" + HASH[2:].upper()]
    )

    assert status.transactions == {HASH: "mined"}
    assert fake_node.calls("eth_getTransactionByHash") == [[HASH]]


def test_a_node_without_batches_gets_single_requests(fake_node: FakeNode) -> None:
    """The status is complete if a node refuses batches."""
    script(fake_node)
    fake_node.script("eth_getTransactionCount", Result("0x5"), Result("0x7"))
    fake_node.script("batch", Error(-32600, "batching is not allowed"))

    assert statuses_of(client(fake_node)) == [healthy("node-1")]


@pytest.mark.parametrize(
    ("method", "failure"),
    [
        *(("eth_chainId", failure) for failure in FAILURES.values()),
        *(("batch", failure) for failure in FAILURES.values() if failure not in BUSY),
        *(("eth_blockNumber", failure) for failure in BUSY),
    ],
)
def test_the_status_of_a_failed_node_has_an_error(
    fake_node: FakeNode, other_node: FakeNode, method: str, failure: Reply
) -> None:
    """Nothing is raised, and the statuses of other nodes are complete."""
    script(fake_node)
    if method == "eth_blockNumber":
        fake_node.script("batch", failure)
    fake_node.script(method, failure)
    script(other_node)
    started = time.monotonic()

    statuses = statuses_of(client(fake_node, other_node, timeout=5, chain_id=7))

    assert statuses == [UNAVAILABLE, healthy("node-2")]
    assert time.monotonic() - started < 20


def test_all_requests_for_a_status_have_one_deadline(
    fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many slow responses do not add up."""
    waited = 0.0

    def answer(params: list[Any]) -> dict[str, Any]:
        nonlocal waited
        waited += 4.0
        return MINED | {"hash": params[0]}

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + waited)
    monkeypatch.setattr(json_rpc.node, "time", clock)
    script(fake_node)
    fake_node.script("batch", Body(status=413))
    fake_node.script("eth_getTransactionCount", Result("0x5"), Result("0x7"))
    fake_node.script("eth_getTransactionByHash", Computed(answer))
    hashes = [HASH, *(f"0x{number:064x}" for number in range(200))]

    (status,) = client(fake_node, timeout=30).node_statuses(ADDRESS, hashes)

    unknown = dict.fromkeys(hashes[4:], "unknown")
    assert status == healthy("node-1", transactions={**status.transactions, **unknown})
    assert status.transactions[HASH] == "mined"


@pytest.mark.parametrize("count", [1, 3])
def test_a_node_of_another_chain_is_not_trusted(three_nodes: Three, count: int) -> None:
    """It is asked for its chain id only, each time."""
    nodes = three_nodes[:count]
    for node in nodes:
        script(node)
    nodes[0].script("eth_chainId", Result("0x8"))
    chain = client(*nodes, chain_id=7)
    other_chain = NodeStatus("node-1", trusted=False, error="chain-misconfigured")

    for _ in range(2):
        statuses = statuses_of(chain)

        assert statuses[0] == other_chain
        assert all(status.error is None for status in statuses[1:])

    assert [request.method for request in nodes[0].requests] == ["eth_chainId"] * 2


def test_the_status_of_a_late_node_is_its_own(three_nodes: Three) -> None:
    """No majority decides a status."""
    for node in three_nodes:
        script(node)
    script(three_nodes[1], head=9, counted=3)
    three_nodes[1].script("eth_getTransactionByHash", Result(None))

    statuses = statuses_of(client(*three_nodes))

    assert statuses == [
        healthy("node-1"),
        healthy("node-2", head=9, counted=3, pending=5, transactions={HASH: "unknown"}),
        healthy("node-3"),
    ]


def test_a_distrusted_node_has_a_status(three_nodes: Three) -> None:
    """Its responses do not count, and its status shows that."""
    for node in three_nodes:
        script(node)
    script_receipts(
        three_nodes, Result(REVERTED), Result(RECEIPT), Delay(0.1, Result(RECEIPT))
    )
    chain = client(*three_nodes)
    receipt_of(chain, HASH)

    statuses = statuses_of(chain)

    assert statuses == [
        healthy("node-1", trusted=False),
        healthy("node-2"),
        healthy("node-3"),
    ]


@pytest.mark.parametrize(
    "refusal",
    [Error(-32602, "invalid block tag"), Error(-32000, "pending is not available")],
    ids=["bad-params", "cannot"],
)
def test_a_node_without_a_pool_has_no_pending_count(
    fake_node: FakeNode, refusal: Reply
) -> None:
    """The rest of its status is complete."""
    script(fake_node)
    fake_node.script("eth_getTransactionCount", refusal, Result("0x5"), refusal)

    assert statuses_of(client(fake_node)) == [healthy("node-1", pending=None)]


def test_a_node_that_fails_half_way_is_unavailable(fake_node: FakeNode) -> None:
    """A broken connection does not mean that there is no pool."""
    script(fake_node)
    fake_node.script("batch", Body(status=413))
    fake_node.script("eth_getTransactionCount", Result("0x5"), Drop())

    (status,) = statuses_of(client(fake_node))

    assert status == UNAVAILABLE


def test_a_transaction_is_unknown_during_indexing(fake_node: FakeNode) -> None:
    script(fake_node)
    fake_node.script(
        "eth_getTransactionByHash", Error(-32000, "transaction indexing is in progress")
    )

    assert statuses_of(client(fake_node)) == [
        healthy("node-1", transactions={HASH: "unknown"})
    ]


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("eth_blockNumber", "0xzz"),
        ("eth_blockNumber", {"surprise": True}),
        ("eth_getTransactionCount", None),
        ("eth_getTransactionByHash", MINED | {"hash": OTHER}),
        ("eth_getTransactionByHash", {"surprise": True}),
    ],
    ids=["no-number", "an-object", "no-count", "another-transaction", "surprise"],
)
def test_a_malformed_result_is_unavailability(
    fake_node: FakeNode, method: str, result: object
) -> None:
    """The whole status is an error."""
    script(fake_node)
    fake_node.script(method, Result(result))

    (status,) = statuses_of(client(fake_node))

    assert status == UNAVAILABLE


@pytest.mark.parametrize(
    "fault",
    [Error(-32601, "c4n4ry"), Error(-32000, "c4n4ry"), Result("c4n4ry")],
    ids=["method", "refusal", "result"],
)
def test_no_secret_is_in_a_status(
    fake_node: FakeNode, caplog: pytest.LogCaptureFixture, fault: Reply
) -> None:
    """Neither the URL nor a message of a node is in a status or a log."""
    caplog.set_level(logging.DEBUG)
    script(fake_node)
    fake_node.script("eth_blockNumber", fault)
    url = fake_node.url.replace("http://", "http://user:c4n4ry@") + "/c4n4ry"

    (status,) = JSONRPCChain([url], 1).node_statuses(ADDRESS, [HASH])

    assert status.error in {"chain-failed", "chain-unavailable"}
    assert "c4n4ry" not in repr(status)
    assert "127.0.0.1" not in repr(status)
    assert "c4n4ry" not in caplog.text
