"""A pool with a dead, late or lying node: see docs/reference/networks.md."""

import os
import time
import warnings

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
    script_all,
)


SILENCE: dict[str, Reply] = {
    "dead": Drop(),
    "in-trouble": Body(status=502),
    "confused": Error(-32601, "Method not found"),
    "mad": Result({"surprise": []}),
    "hanging": Delay(90, Drop()),
}
ODD: dict[str, Reply] = SILENCE | {
    "late": Result(None),
    "on-a-fork": Result(FORKED),
    "lying": Result(REVERTED),
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_one_of_three_decides_nothing(
    three_nodes: Three, odd: Reply, place: int
) -> None:
    """One node that is dead, late or lying neither hides nor forges a receipt (R25)."""
    replies: list[Reply] = [Result(RECEIPT)] * 3
    replies[place] = odd
    script_all(three_nodes, "eth_getTransactionReceipt", *replies)
    chain = client(*three_nodes, timeout=60)
    started = time.monotonic()

    receipt = chain.receipt(HASH)

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
        "one-dead-one-late",
        "one-dead-one-forked",
    ],
)
def test_what_no_majority_says_is_nothing_yet(
    three_nodes: Three, replies: tuple[Reply, Reply, Reply]
) -> None:
    """While nodes do not agree there is no receipt, which proves nothing."""
    script_all(three_nodes, "eth_getTransactionReceipt", *replies)
    chain = client(*three_nodes)

    assert chain.receipt(HASH) is None
    assert chain.receipts([HASH]) == {}


@pytest.mark.parametrize("silence", SILENCE.values(), ids=SILENCE)
def test_one_of_three_alone_is_not_believed(three_nodes: Three, silence: Reply) -> None:
    """When two of three do not answer, nobody can tell."""
    script_all(
        three_nodes, "eth_getTransactionReceipt", silence, Result(RECEIPT), silence
    )

    with pytest.raises(ChainUnavailableError, match="too few"):
        client(*three_nodes, timeout=0.5).receipt(HASH)


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        (Result(RECEIPT), Result(RECEIPT), True),
        (Result(RECEIPT), Result(None), False),
        (Result(RECEIPT), Result(FORKED), False),
        (Result(RECEIPT), Body(status=502), True),
    ],
    ids=["agree", "one-late", "one-lying", "one-dead"],
)
def test_two_nodes_must_agree_while_both_answer(
    fake_node: FakeNode, other_node: FakeNode, first: Reply, second: Reply, known: bool
) -> None:
    """Of two nodes none can be outvoted, and one is better than none."""
    fake_node.script("eth_getTransactionReceipt", first)
    other_node.script("eth_getTransactionReceipt", second)

    for nodes in ((fake_node, other_node), (other_node, fake_node)):
        assert (client(*nodes).receipt(HASH) is not None) is known


HEADS: dict[str, tuple[list[int | None], int]] = {
    "together": ([7, 7, 7], 7),
    "one-late": ([3, 9, 9], 9),
    "one-ahead": ([7, 1000, 7], 7),
    "one-each": ([7, 9, 1000], 9),
    "one-dead": ([9, None, 7], 7),
}


@pytest.mark.parametrize(("heights", "reached"), HEADS.values(), ids=HEADS)
def test_the_head_is_where_a_majority_is(
    three_nodes: Three, heights: list[int | None], reached: int
) -> None:
    """A node that is late, or that counts blocks that are none, moves no depth."""
    for node, height in zip(three_nodes, heights, strict=True):
        block = Result(BLOCK | {"number": hex(height or 0)})
        node.script("eth_getBlockByNumber", block if height else Body(status=502))
        count = Result(hex(height or 0))
        node.script("eth_getTransactionCount", count if height else Body(status=502))
    chain = client(*three_nodes)

    assert chain.latest_block().number == reached
    assert chain.transaction_count(ADDRESS) == reached


def test_two_nodes_have_reached_what_the_later_one_has(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """The head of two nodes is the lower one."""
    fake_node.script("eth_getTransactionCount", Result("0x9"))
    other_node.script("eth_getTransactionCount", Result("0x7"))

    assert client(fake_node, other_node).transaction_count(ADDRESS) == 7


PENDING: dict[str, tuple[list[Reply], int | None]] = {
    "together": ([Result("0x7"), Result("0x7"), Result("0x7")], 7),
    "one-knows-more": ([Result("0x7"), Result("0x7"), Result("0x9")], 9),
    "one-knows-more-late": (
        [Result("0x7"), Delay(0.1, Result("0x9")), Result("0x7")],
        9,
    ),
    "one-dead": ([Drop(), Result("0x9"), Result("0x7")], 9),
    "one-hangs": ([Result("0x7"), Delay(2, Drop()), Result("0x7")], 7),
    "one-without-pool": (
        [Error(-32602, "pending"), Result("0x9"), Result("0x7")],
        9,
    ),
    "two-dead": ([Drop(), Result("0x9"), Body(status=502)], None),
}


@pytest.mark.parametrize(("replies", "counted"), PENDING.values(), ids=PENDING)
def test_what_waits_anywhere_counts(
    three_nodes: Three, replies: list[Reply], counted: int | None
) -> None:
    """A transaction in one pool is missed by no majority, nor by haste (R24)."""
    script_all(three_nodes, "eth_getTransactionCount", *replies)
    chain = client(*three_nodes, timeout=1)

    if counted is None:
        with pytest.raises(ChainUnavailableError, match="too few"):
            chain.pending_count(ADDRESS)
    else:
        assert chain.pending_count(ADDRESS) == counted
    assert all(
        node.calls("eth_getTransactionCount")[0] == [ADDRESS, "pending"]
        for node in three_nodes
    )


def test_who_hangs_is_not_waited_for_twice(three_nodes: Three) -> None:
    """What waits anywhere costs a timeout once, where two others answer."""
    script_all(
        three_nodes,
        "eth_getTransactionCount",
        Result("0x7"),
        Delay(60, Drop()),
        Result("0x7"),
    )
    chain = client(*three_nodes, timeout=4)
    chain.pending_count(ADDRESS)
    started = time.monotonic()

    assert chain.pending_count(ADDRESS) == 7
    assert time.monotonic() - started < 3.5


def test_a_single_node_without_pool_gives_no_nonces(fake_node: FakeNode) -> None:
    """Who cannot say what waits is not believed that nothing does."""
    refusal = Error(-32602, "invalid block tag")
    fake_node.script("eth_getTransactionCount", refusal)

    with pytest.raises(ChainError):
        client(fake_node).pending_count(ADDRESS)


def test_a_past_nonce_is_what_a_majority_counts(three_nodes: Three) -> None:
    """The past does not grow: there the answers must be the same."""
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


def test_a_block_is_canonical_when_a_majority_has_it(three_nodes: Three) -> None:
    """One node on a fork does not make us take a block for canonical, or for gone."""
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
    ],
    ids=["one-lies", "two-dead", "one-dead-one-lies", "all-differ"],
)
def test_the_chain_id_is_what_a_majority_says(
    three_nodes: Three, replies: tuple[Reply, Reply, Reply], expected: int | None
) -> None:
    """Whoever answers is enough to start, unless they contradict each other."""
    script_all(three_nodes, "eth_chainId", *replies)
    chain = client(*three_nodes)

    if expected is None:
        with pytest.raises(ChainError, match="different chains"):
            chain.chain_id()
    else:
        assert chain.chain_id() == expected


def test_a_forked_process_asks_all_nodes_by_itself(three_nodes: Three) -> None:
    """Threads do not survive a fork; a child starts its own."""
    script_all(three_nodes, "eth_getTransactionReceipt", *[Result(RECEIPT)] * 3)
    chain = client(*three_nodes)
    chain.receipt(HASH)

    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; that hazard is the subject.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if chain.receipt(HASH) else 1)
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert chain.receipt(HASH) is not None
