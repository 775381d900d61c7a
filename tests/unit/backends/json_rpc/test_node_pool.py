"""Several nodes: failed, late, lying or on another chain; which of them count."""

import os
import time
import warnings
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
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ExecutionRevertedError,
)
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drop, Error, Reply, Result
from tests.support.rpc import (
    ADDRESS,
    ANSWERS,
    BLOCK,
    CALL,
    FORKED,
    HASH,
    METHODS,
    RAW,
    RECEIPT,
    RESULTS,
    REVERTED,
    Three,
    broadcast,
    client,
    every_method,
    receipt_of,
    script_all,
    script_first,
    script_receipts,
)
from tests.support.waiting import eventually


FAILURES: dict[str, Reply] = {
    "down": Drop(),
    "http-502": Body(status=502),
    "method-not-found": Error(-32601, "Method not found"),
    "malformed": Result({"surprise": []}),
    "hanging": Delay(90, Drop()),
}
ODD: dict[str, Reply] = FAILURES | {
    "late": Result(None),
    "on-a-fork": Result(FORKED),
    "lying": Result(REVERTED),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_one_of_three_nodes_changes_no_receipt(three_nodes: Three, odd: Reply) -> None:
    """A failed, late or lying node neither hides nor forges a receipt (R25)."""
    for place in range(3):
        replies: list[Reply] = [Result(RECEIPT)] * 3
        replies[place] = odd
        script_receipts(three_nodes, *replies)
        chain = client(*three_nodes, timeout=60)
        started = time.monotonic()

        receipt = receipt_of(chain, HASH)

        assert receipt is not None
        assert receipt.succeeded
        assert receipt.block.hash == "0x" + "ab" * 32
        assert chain.receipts([HASH]) == {HASH: receipt}
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "replies",
    [
        (Result(None), Result(RECEIPT), Result(None)),
        (Result(RECEIPT), Result(FORKED), Result(REVERTED)),
        (Result(RECEIPT), Result(None), Result(FORKED)),
        (Result(RECEIPT), Drop(), Result(None)),
        (Result(RECEIPT), Drop(), Result(FORKED)),
    ],
    ids=[
        "one-knows",
        "all-differ",
        "forked",
        "one-down-one-late",
        "one-down-one-forked",
    ],
)
def test_without_a_majority_there_is_no_receipt(
    three_nodes: Three, replies: tuple[Reply, Reply, Reply]
) -> None:
    """While nodes disagree, nothing is known."""
    script_receipts(three_nodes, *replies)
    chain = client(*three_nodes)

    assert receipt_of(chain, HASH) is None
    assert chain.receipts([HASH]) == {}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_one_of_three_nodes_is_too_few(three_nodes: Three, failure: Reply) -> None:
    """If two of three nodes fail, the request fails."""
    script_receipts(three_nodes, failure, Result(RECEIPT), failure)

    with pytest.raises(ChainUnavailableError, match="too few"):
        receipt_of(client(*three_nodes, timeout=0.5), HASH)


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        (Result(RECEIPT), Result(RECEIPT), True),
        (Result(RECEIPT), Result(None), False),
        (Result(RECEIPT), Result(FORKED), False),
        (Result(RECEIPT), Body(status=502), True),
    ],
    ids=["agree", "one-late", "one-lying", "one-down"],
)
def test_two_nodes_must_agree_while_both_answer(
    fake_node: FakeNode, other_node: FakeNode, first: Reply, second: Reply, known: bool
) -> None:
    """Neither can be outvoted; if one fails, the other suffices."""
    fake_node.script("eth_getTransactionReceipt", first)
    other_node.script("eth_getTransactionReceipt", second)

    for nodes in ((fake_node, other_node), (other_node, fake_node)):
        assert (receipt_of(client(*nodes), HASH) is not None) is known


HEADS: dict[str, tuple[list[int | None], int]] = {
    "together": ([7, 7, 7], 7),
    "one-late": ([3, 9, 9], 9),
    "one-ahead": ([7, 1000, 7], 7),
    "one-each": ([7, 9, 1000], 9),
    "one-down": ([9, None, 7], 7),
    "two-nodes": ([9, 7], 7),
}


@pytest.mark.parametrize(("heights", "reached"), HEADS.values(), ids=HEADS)
def test_the_head_is_reached_by_a_majority(
    three_nodes: Three, heights: list[int | None], reached: int
) -> None:
    """Neither a late node nor one that invents blocks changes it."""
    for node, height in zip(three_nodes, heights, strict=False):
        block = Result(BLOCK | {"number": hex(height or 0)})
        node.script("eth_getBlockByNumber", block if height else Body(status=502))
        count = Result(hex(height or 0))
        node.script("eth_getTransactionCount", count if height else Body(status=502))
    chain = client(*three_nodes[: len(heights)])

    assert chain.latest_block().number == reached
    assert chain.transaction_count(ADDRESS) == reached


PENDING: dict[str, tuple[list[Reply], int | None]] = {
    "together": ([Result("0x7"), Result("0x7"), Result("0x7")], 7),
    "two-know-more": ([Result("0x7"), Result("0x9"), Result("0x9")], 9),
    "two-know-more-late": (
        [Result("0x7"), Delay(0.1, Result("0x9")), Result("0x9")],
        9,
    ),
    "one-lies": ([Result("0x7"), Result("0x3e8"), Result("0x7")], 7),
    "one-down": ([Drop(), Result("0x9"), Result("0x7")], 9),
    "one-hangs": ([Result("0x7"), Delay(60, Drop()), Result("0x7")], 7),
    "one-without-pool": ([Error(-32602, "pending"), Result("0x9"), Result("0x7")], 9),
    "two-down": ([Drop(), Result("0x9"), Body(status=502)], None),
}


@pytest.mark.parametrize(("replies", "counted"), PENDING.values(), ids=PENDING)
def test_the_highest_pending_count_of_a_quorum_wins(
    three_nodes: Three, replies: list[Reply], counted: int | None
) -> None:
    """A transaction in two pools counts, even if a node is slow; an invented one not.

    If one node is down, a transaction in the pool of one of the others counts (R24).
    """
    script_all(three_nodes, "eth_getTransactionCount", *replies)
    chain = client(*three_nodes, timeout=1)

    if counted is None:
        with pytest.raises(ChainUnavailableError, match="too few"):
            chain.pending_count(ADDRESS)
    else:
        assert chain.pending_count(ADDRESS) == counted
    for node in three_nodes:
        # A node may get its request after the others have agreed.
        assert eventually(partial(node.calls, "eth_getTransactionCount"))
        assert node.calls("eth_getTransactionCount")[0] == [ADDRESS, "pending"]


def test_a_hanging_node_costs_one_timeout(three_nodes: Three) -> None:
    """While the others disagree, it is needed; the next request skips it."""
    script_all(
        three_nodes,
        "eth_getTransactionCount",
        Result("0x7"),
        Delay(60, Drop()),
        Result("0x9"),
    )
    chain = client(*three_nodes, timeout=1)

    assert [chain.pending_count(ADDRESS) for _ in range(2)] == [9, 9]
    assert len(three_nodes[1].requests) == 1


def test_a_hanging_node_delays_nothing_while_the_others_agree(
    three_nodes: Three,
) -> None:
    """It could not change the next nonce."""
    script_all(
        three_nodes,
        "eth_getTransactionCount",
        Result("0x7"),
        Delay(60, Drop()),
        Result("0x7"),
    )
    started = time.monotonic()

    assert client(*three_nodes, timeout=60).pending_count(ADDRESS) == 7
    assert time.monotonic() - started < 20


def test_a_single_node_must_have_a_pool(fake_node: FakeNode) -> None:
    """Without a pending count the request fails."""
    refusal = Error(-32602, "invalid block tag")
    fake_node.script("eth_getTransactionCount", refusal)

    with pytest.raises(ChainError):
        client(fake_node).pending_count(ADDRESS)


def test_a_past_nonce_needs_a_majority(three_nodes: Three) -> None:
    """The counts at a past block must be equal."""
    script_all(
        three_nodes,
        "eth_getTransactionCount",
        Result("0x9"),
        Error(-32000, "missing trie node"),
        Result("0x9"),
    )
    chain = client(*three_nodes)

    assert chain.transaction_count(ADDRESS, 16) == 9

    three_nodes[1].script("eth_getTransactionCount", Result("0x8"))
    three_nodes[2].script("eth_getTransactionCount", Result("0x7"))

    with pytest.raises(ChainUnavailableError, match="do not agree"):
        chain.transaction_count(ADDRESS, 16)


def test_a_block_is_canonical_if_a_majority_has_it(three_nodes: Three) -> None:
    """One node on a fork changes nothing."""
    fork = BLOCK | {"hash": "0x" + "cd" * 32}
    script_all(
        three_nodes, "eth_getBlockByNumber", Result(BLOCK), Result(fork), Result(BLOCK)
    )

    block = client(*three_nodes).block(16)

    assert block is not None
    assert block.hash == "0x" + "ab" * 32


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ((Result("0x1"), Result("0x1"), Result("0x2")), 1),
        ((Result("0x1"), Body(status=502), Body(status=502)), 1),
        ((Result("0x1"), Body(status=502), Result("0x2")), None),
        ((Result("0x1"), Result("0x3"), Result("0x2")), None),
        ((Result("0x1"), Result("0x2")), None),
        ((Body(status=502), Result("0x2")), 2),
    ],
    ids=[
        "one-lies",
        "two-down",
        "one-down-one-lies",
        "all-differ",
        "two-nodes-differ",
        "one-of-two-down",
    ],
)
def test_the_chain_id_is_that_of_a_majority(
    three_nodes: Three, replies: tuple[Reply, ...], expected: int | None
) -> None:
    """One node is enough at the start, unless nodes disagree."""
    nodes = three_nodes[: len(replies)]
    for node, reply in zip(nodes, replies, strict=True):
        node.script("eth_chainId", reply)
    chain = client(*nodes)

    if expected is None:
        with pytest.raises(ChainError, match=r"different chains: \[1, ") as caught:
            chain.chain_id()
        assert not caught.value.retryable
    else:
        assert chain.chain_id() == expected


def test_a_forked_process_starts_its_own_threads(three_nodes: Three) -> None:
    script_receipts(three_nodes, *[Result(RECEIPT)] * 3)
    chain = client(*three_nodes)
    receipt_of(chain, HASH)

    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; that hazard is the subject.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if receipt_of(chain, HASH) else 1)
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert receipt_of(chain, HASH) is not None


@every_method
def test_a_read_continues_with_the_next_node(
    fake_node: FakeNode, other_node: FakeNode, name: str
) -> None:
    """If the first node fails, the result of the second one counts."""
    _, ask = METHODS[name]
    script_first(fake_node, name, Body(status=502))
    for method, answer in RESULTS.items():
        other_node.script(method, Result(answer))

    assert ask(client(fake_node, other_node)) == ANSWERS[name]


def test_a_revert_counts_if_no_other_node_succeeds(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    fake_node.script("eth_estimateGas", Error(3, "execution reverted", "0x75e91ce7"))
    other_node.script("eth_estimateGas", Result("0x5"), Body(status=502))
    chain = client(fake_node, other_node)

    assert chain.estimate_gas(CALL) == 5

    with pytest.raises(ExecutionRevertedError, match="custom error 0x75e91ce7"):
        chain.estimate_gas(CALL)


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(Error(-32000, "nonce too low"), id="nonce-too-low"),
        pytest.param(Error(-32000, "insufficient funds"), id="insufficient-funds"),
        pytest.param(Error(-32601, "Method not found"), id="not-served"),
        pytest.param(Result("0x" + "00" * 32), id="other-hash"),
        pytest.param(Body(status=504), id="http-504"),
        pytest.param(Drop(), id="hung-up"),
    ],
)
def test_a_broadcast_needs_one_acceptance(
    fake_node: FakeNode, other_node: FakeNode, failure: Reply
) -> None:
    """A broadcast goes to all nodes and succeeds if one accepts it."""
    fake_node.script("eth_sendRawTransaction", failure)
    other_node.script("eth_sendRawTransaction", Result(HASH))
    for nodes in ((other_node, fake_node), (fake_node, other_node)):
        broadcast(client(*nodes), RAW)

        for node in nodes:
            # The other node may get its request after the call has returned.
            assert eventually(partial(node.calls, "eth_sendRawTransaction"))
            assert node.calls("eth_sendRawTransaction")[0] == ["0x" + RAW.hex()]
            node.requests.clear()


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("nonce too high", "nonce too low", "nonce-too-low"),
        ("exceeds block gas limit", "insufficient funds", "insufficient-funds"),
        ("nonce too high", "transaction underpriced", "underpriced"),
        ("nonce too high", None, "nonce-too-high"),
    ],
)
def test_the_most_informed_refusal_counts(
    fake_node: FakeNode,
    other_node: FakeNode,
    first: str,
    second: str | None,
    reason: str,
) -> None:
    """If all nodes refuse, the one that has seen more of the chain decides."""
    refusal = Error(-32000, first)
    other = Error(-32000, second) if second else Body(status=502)
    for replies in ((refusal, other), (other, refusal)):
        fake_node.script("eth_sendRawTransaction", replies[0])
        other_node.script("eth_sendRawTransaction", replies[1])

        with pytest.raises(BroadcastRejectedError) as caught:
            broadcast(client(fake_node, other_node), RAW)

        assert caught.value.reason == reason


@every_method
def test_a_temporary_error_precedes_a_permanent_one(
    fake_node: FakeNode, other_node: FakeNode, name: str
) -> None:
    """While one node may answer later, the error is retryable."""
    _, ask = METHODS[name]
    script_first(fake_node, name, Error(-32601, "Method not found"))
    script_first(other_node, name, Body(status=503))

    with pytest.raises(ChainUnavailableError):
        ask(client(fake_node, other_node))


def test_another_hash_is_unavailability(fake_node: FakeNode) -> None:
    """The client computes the hash; another one proves nothing (R25)."""
    fake_node.script("eth_sendRawTransaction", Result("0x" + "11" * 32))

    with pytest.raises(ChainUnavailableError, match="another transaction"):
        broadcast(client(fake_node), RAW)


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
