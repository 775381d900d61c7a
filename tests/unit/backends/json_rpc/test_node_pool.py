"""A pool with a failed, late or lying node: see docs/reference/networks.md."""

import os
import time
import warnings
from functools import partial

import pytest

from signer.errors import ChainError, ChainUnavailableError
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drop, Error, Reply, Result
from tests.support.rpc import (
    ADDRESS,
    BLOCK,
    FORKED,
    HASH,
    RECEIPT,
    REVERTED,
    Three,
    client,
    receipt_of,
    script_all,
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


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_one_of_three_nodes_changes_no_receipt(
    three_nodes: Three, odd: Reply, place: int
) -> None:
    """A failed, late or lying node neither hides nor forges a receipt (R25)."""
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
