"""What each node says by itself, while others are dead, late, elsewhere or lying."""

import logging
import time
from typing import Any

import pytest

from backends.json_rpc import JSONRPCChain
from signer.errors import ChainUnavailableError
from signer.ports import NodeStatus
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drop, Error, Reply, Result
from tests.support.rpc import (
    ADDRESS,
    HASH,
    RAW,
    RECEIPT,
    REVERTED,
    Three,
    client,
    script_all,
)


OTHER = "0x" + "22" * 32
MINED: dict[str, Any] = {"hash": HASH, "blockHash": "0x" + "ab" * 32}
PENDING = MINED | {"blockHash": None}

SILENCE: dict[str, Reply] = {
    "hung-up": Drop(),
    "reset": Drop(reset=True),
    "in-trouble": Body(status=503),
    "throttled": Body(status=429),
    "hanging": Delay(1, Drop()),
}


def script(node: FakeNode, *, head: int = 16, counted: int = 5) -> None:
    """Let *node* know HASH as mined, and two transactions that wait."""
    node.script("eth_chainId", Result("0x7"))
    node.script("eth_blockNumber", Result(hex(head)))
    # The members of a batch are answered from the last to the first.
    node.script(
        "eth_getTransactionCount", Result(hex(counted + 2)), Result(hex(counted))
    )
    node.script("eth_getTransactionByHash", Result(MINED))


def healthy(name: str, **changes: Any) -> NodeStatus:
    """Return the view of a node with that script."""
    fields: dict[str, Any] = {
        "trusted": True,
        "head": 16,
        "counted": 5,
        "pending": 7,
        "transactions": {HASH: "mined"},
    }
    return NodeStatus(name, **fields | changes)


def look(chain: JSONRPCChain) -> list[NodeStatus]:
    """Ask for the views of one transaction."""
    return list(chain.node_statuses(ADDRESS, [HASH]))


def test_a_view_takes_one_exchange(fake_node: FakeNode) -> None:
    """Head, both counts and all transactions come in one batch, behind the chain id."""
    script(fake_node)
    fake_node.script(
        "eth_getTransactionByHash",
        Result(None),
        Result(PENDING | {"hash": OTHER}),
        Result(MINED),
    )
    unknown = "0x" + "33" * 32
    hashes = [HASH, OTHER, unknown]

    (view,) = client(fake_node, chain_id=7).node_statuses(ADDRESS, hashes)

    where = {HASH: "mined", OTHER: "pending", unknown: "unknown"}
    assert view == healthy("node-1", transactions=where)
    assert list(view.transactions) == hashes
    assert fake_node.batches == [6]
    assert fake_node.calls("eth_getTransactionCount") == [
        [ADDRESS, "latest"],
        [ADDRESS, "pending"],
    ]


def test_a_hash_that_is_named_twice_is_asked_once(fake_node: FakeNode) -> None:
    """However it is written, a transaction has one place in the view."""
    script(fake_node)

    (view,) = client(fake_node).node_statuses(ADDRESS, [HASH, "0x" + HASH[2:].upper()])

    assert view.transactions == {HASH: "mined"}
    assert fake_node.calls("eth_getTransactionByHash") == [[HASH]]


@pytest.mark.parametrize(
    "refusal",
    [
        Error(-32600, "batching is not allowed"),
        Body(status=413),
        Body(b"[]"),
    ],
    ids=["error", "http-413", "nothing"],
)
def test_a_node_that_takes_no_batches_is_asked_singly(
    fake_node: FakeNode, refusal: Reply
) -> None:
    """A refused batch costs more exchanges, and no part of the view."""
    script(fake_node)
    fake_node.script("eth_getTransactionCount", Result("0x5"), Result("0x7"))
    fake_node.script("batch", refusal)

    assert look(client(fake_node)) == [healthy("node-1")]


def test_nodes_are_named_by_their_places(three_nodes: Three) -> None:
    """Each has its own view, in the order of the configuration."""
    for node in three_nodes:
        script(node)

    views = look(client(*three_nodes, chain_id=7))

    assert views == [healthy(f"node-{place}") for place in (1, 2, 3)]


@pytest.mark.parametrize("silence", SILENCE.values(), ids=SILENCE)
@pytest.mark.parametrize("method", ["eth_chainId", "batch"])
def test_a_dead_node_has_a_view_that_says_so(
    fake_node: FakeNode, other_node: FakeNode, method: str, silence: Reply
) -> None:
    """Who does not answer in time raises nothing, and hides no other node's view."""
    script(fake_node)
    fake_node.script(method, silence)
    script(other_node)
    started = time.monotonic()

    views = look(client(fake_node, other_node, timeout=0.3, chain_id=7))

    assert views == [
        NodeStatus("node-1", trusted=True, error="chain-unavailable"),
        healthy("node-2"),
    ]
    assert time.monotonic() - started < 20


def test_slow_answers_have_one_deadline_together(fake_node: FakeNode) -> None:
    """Many exchanges that each come in time do not hold a reader up."""
    script(fake_node)
    fake_node.script("batch", Body(status=413))
    fake_node.script("eth_getTransactionByHash", Delay(0.2, Result(None)))
    hashes = [f"0x{number:064x}" for number in range(200)]
    started = time.monotonic()

    (view,) = client(fake_node, timeout=0.4).node_statuses(ADDRESS, hashes)

    assert view == NodeStatus("node-1", trusted=True, error="chain-unavailable")
    assert 0.4 <= time.monotonic() - started < 20


def test_nobody_in_reach_is_no_error(fake_node: FakeNode) -> None:
    """An only node that is dead has a view, too, and a better one when it is back."""
    script(fake_node)
    fake_node.script("eth_chainId", Body(status=503), Result("0x7"))
    chain = client(fake_node, chain_id=7)

    assert look(chain) == [
        NodeStatus("node-1", trusted=True, error="chain-unavailable")
    ]
    assert look(chain) == [healthy("node-1")]


@pytest.mark.parametrize("count", [1, 3])
def test_a_node_of_another_chain_is_shown_as_such(
    three_nodes: Three, count: int
) -> None:
    """It says nothing of our wallet, is not trusted, and is asked for its id again."""
    nodes = three_nodes[:count]
    for node in nodes:
        script(node)
    nodes[0].script("eth_chainId", Result("0x8"))
    chain = client(*nodes, chain_id=7)
    elsewhere = NodeStatus("node-1", trusted=False, error="chain-misconfigured")

    for _ in range(2):
        views = look(chain)

        assert views[0] == elsewhere
        assert all(view.error is None for view in views[1:])

    assert [request.method for request in nodes[0].requests] == ["eth_chainId"] * 2


def test_a_node_that_lags_is_shown_where_it_is(three_nodes: Three) -> None:
    """No majority decides a view: late is what the late node's view shows."""
    for node in three_nodes:
        script(node)
    script(three_nodes[1], head=9, counted=3)
    three_nodes[1].script("eth_getTransactionByHash", Result(None))

    views = look(client(*three_nodes))

    assert views == [
        healthy("node-1"),
        healthy("node-2", head=9, counted=3, pending=5, transactions={HASH: "unknown"}),
        healthy("node-3"),
    ]


def test_who_is_distrusted_is_still_looked_at(three_nodes: Three) -> None:
    """A liar's word does not count, and its view says so."""
    for node in three_nodes:
        script(node)
    script_all(
        three_nodes,
        "eth_getTransactionReceipt",
        Result(REVERTED),
        Result(RECEIPT),
        Delay(0.1, Result(RECEIPT)),
    )
    chain = client(*three_nodes)
    chain.receipt(HASH)

    views = look(chain)

    assert views == [
        healthy("node-1", trusted=False),
        healthy("node-2"),
        healthy("node-3"),
    ]


def test_an_only_nodes_word_counts_whatever_it_said(fake_node: FakeNode) -> None:
    """Where there is nobody else, what a node shows is what is believed."""
    script(fake_node)
    fake_node.script("eth_sendRawTransaction", Result(OTHER), Result(HASH))
    chain = client(fake_node)
    with pytest.raises(ChainUnavailableError):
        chain.broadcast(RAW)

    assert look(chain) == [healthy("node-1")]


@pytest.mark.parametrize(
    "refusal",
    [Error(-32602, "invalid block tag"), Error(-32000, "pending is not available")],
    ids=["bad-params", "cannot"],
)
def test_a_node_without_a_pool_shows_the_rest(
    fake_node: FakeNode, refusal: Reply
) -> None:
    """Some nodes do not tell what waits; that hides nothing else."""
    script(fake_node)
    fake_node.script("eth_getTransactionCount", refusal, Result("0x5"), refusal)

    assert look(client(fake_node)) == [healthy("node-1", pending=None)]


def test_a_node_that_dies_half_way_did_not_answer(fake_node: FakeNode) -> None:
    """Silence at the pool is silence, and not the lack of one."""
    script(fake_node)
    fake_node.script("batch", Body(status=413))
    fake_node.script("eth_getTransactionCount", Result("0x5"), Drop())

    (view,) = look(client(fake_node))

    assert view == NodeStatus("node-1", trusted=True, error="chain-unavailable")


def test_an_index_in_progress_knows_nothing_yet(fake_node: FakeNode) -> None:
    """A node that has not looked has the transaction nowhere that it could tell."""
    script(fake_node)
    fake_node.script(
        "eth_getTransactionByHash",
        Error(-32000, "transaction indexing is in progress"),
    )

    view = look(client(fake_node))

    assert view == [healthy("node-1", transactions={HASH: "unknown"})]


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
def test_what_makes_no_sense_is_no_view(
    fake_node: FakeNode, method: str, result: object
) -> None:
    """An answer that is none makes the whole view none."""
    script(fake_node)
    fake_node.script(method, Result(result))

    (view,) = look(client(fake_node))

    assert view == NodeStatus("node-1", trusted=True, error="chain-unavailable")


@pytest.mark.parametrize(
    "fault",
    [Error(-32601, "c4n4ry"), Error(-32000, "c4n4ry"), Result("c4n4ry")],
    ids=["method", "refusal", "result"],
)
def test_no_secret_leaves_in_a_view(
    fake_node: FakeNode, caplog: pytest.LogCaptureFixture, fault: Reply
) -> None:
    """Neither the URL nor a node's own words are in a view or a log."""
    caplog.set_level(logging.DEBUG)
    script(fake_node)
    fake_node.script("eth_blockNumber", fault)
    url = fake_node.url.replace("http://", "http://user:c4n4ry@") + "/c4n4ry"

    (view,) = JSONRPCChain([url], 1).node_statuses(ADDRESS, [HASH])

    assert view.error in {"chain-failed", "chain-unavailable"}
    assert "c4n4ry" not in repr(view)
    assert "127.0.0.1" not in repr(view)
    assert "c4n4ry" not in caplog.text
