"""The search for the transaction that used a nonce."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.json_rpc.requests import find_first
from signer.errors import ChainUnavailableError
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Error, Result
from tests.support.rpc import ADDRESS, BLOCK, HASH, client


SENDER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
MINED = {
    "hash": HASH,
    "from": SENDER.lower(),
    "nonce": "0x5",
    "to": ADDRESS.lower(),
    "value": "0x0",
    "input": "0xa9059cbb",
    "gas": "0xfde8",
    "blockHash": "0x" + "ab" * 32,
    "blockNumber": "0x10",
}
MISSING = Error(-32000, "missing trie node 3b70737ce08bd905 (path )")


@given(st.data())
def test_the_search_needs_few_requests(data: st.DataObject) -> None:
    """At most 2 log2(height) + 2."""
    head = data.draw(st.integers(0, 10**9))
    height = data.draw(st.integers(0, head))
    oldest = data.draw(st.integers(0, head))
    asked = list[int]()

    def consumed(at: int) -> bool:
        asked.append(at)
        return at >= height and at >= oldest

    found = find_first(consumed, head)

    # If the node has pruned older state, the result is its oldest block.
    assert found == max(height, oldest)
    assert all(0 <= at < max(head, 1) for at in asked)
    assert len(asked) <= 2 * math.log2(head + 1) + 2


def script(node: FakeNode, *counts: Result | Error) -> None:
    """Let *node* be at block 16, which holds one transaction, MINED."""
    head = BLOCK | {"transactions": [{"type": "0x7e", **MINED}]}
    node.script("eth_getBlockByNumber", Result(BLOCK), Result(head))
    node.script("eth_getTransactionCount", *counts)
    node.script("eth_getTransactionByHash", Result(MINED))


@pytest.mark.parametrize("before", [Result("0x5"), MISSING], ids=["counted", "missing"])
def test_the_transaction_with_a_nonce_is_found(
    fake_node: FakeNode, before: Result | Error
) -> None:
    """Also in the oldest block of the node, and among unknown transaction types."""
    script(fake_node, Result("0x6"), before)

    found = client(fake_node).find_transaction(SENDER, 5)

    assert found is not None
    assert (found.tx_hash, found.sender, found.nonce) == (HASH, SENDER, 5)
    assert (found.to, found.data) == (ADDRESS, b"\xa9\x05\x9c\xbb")
    assert found.gas_limit == 65_000
    assert (found.block.number, found.block.hash) == (16, "0x" + "ab" * 32)


def test_an_unused_nonce_needs_no_search(fake_node: FakeNode) -> None:
    """Two requests suffice."""
    script(fake_node, Result("0x5"))

    assert client(fake_node).find_transaction(SENDER, 5) is None
    assert len(fake_node.requests) == 2


def test_a_transaction_in_a_pruned_block_is_not_found(fake_node: FakeNode) -> None:
    script(fake_node, Result("0x9"), MISSING)

    assert client(fake_node).find_transaction(SENDER, 4) is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        MINED | {"blockHash": None, "blockNumber": None},
        MINED | {"nonce": "0x4"},
        MINED | {"from": ADDRESS},
    ],
    ids=["unknown", "pending", "another-nonce", "another-sender"],
)
def test_another_transaction_is_not_returned(
    fake_node: FakeNode, answer: object
) -> None:
    """A reorganisation may remove it meanwhile, and a node may lie."""
    script(fake_node, Result("0x6"), Result("0x5"))
    fake_node.script("eth_getTransactionByHash", Result(answer))

    assert client(fake_node).find_transaction(SENDER, 5) is None


@pytest.mark.parametrize(
    "change",
    [
        {"hash": "0x" + "22" * 32},
        {"from": "0x1234"},
        {"input": None},
        {"value": None},
        {"gas": None},
        {"to": "0x"},
        {"blockNumber": None},
    ],
    ids=repr,
)
def test_a_malformed_transaction_is_refused(
    fake_node: FakeNode, change: dict[str, object]
) -> None:
    """Fields are missing, or it is another transaction."""
    script(fake_node, Result("0x6"), Result("0x5"))
    fake_node.script("eth_getTransactionByHash", Result(MINED | change))

    with pytest.raises(ChainUnavailableError, match="malformed"):
        client(fake_node).find_transaction(SENDER, 5)


def test_the_next_node_may_have_older_blocks(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """Nodes without old state confirm what an archive node finds."""
    script(fake_node, Result("0x9"), MISSING)
    fake_node.script(
        "eth_getBlockByNumber", Result(BLOCK), Result(BLOCK | {"transactions": []})
    )
    script(other_node, Result("0x9"), Result("0x5"))

    found = client(fake_node, other_node).find_transaction(SENDER, 5)

    assert found is not None
    assert found.tx_hash == HASH


def test_a_node_that_lies_about_the_past_is_outvoted(
    three_nodes: tuple[FakeNode, FakeNode, FakeNode],
) -> None:
    """The other nodes do not confirm an invented transaction."""
    liar, second, third = three_nodes
    invented = MINED | {"hash": "0x" + "99" * 32}
    for node in (second, third):
        script(node, Result("0x6"), Result("0x5"))
        node.script("eth_getTransactionByHash", Result(None), Result(MINED))
    script(liar, Result("0x6"), Result("0x5"))
    liar.script(
        "eth_getBlockByNumber",
        Result(BLOCK),
        Result(BLOCK | {"transactions": [invented]}),
    )
    liar.script("eth_getTransactionByHash", Result(invented), Result(None))

    found = client(*three_nodes).find_transaction(SENDER, 5)

    assert found is not None
    assert found.tx_hash == HASH


def test_a_search_has_a_deadline(fake_node: FakeNode) -> None:
    """Many slow responses do not add up."""
    script(fake_node, Result("0x6"))
    fake_node.script("eth_getTransactionCount", Delay(0.4, Result("0x6")))
    fake_node.script(
        "eth_getBlockByNumber", Result(BLOCK | {"number": hex(10**9)}), Body(b"")
    )

    with pytest.raises(ChainUnavailableError, match="too long"):
        client(fake_node, timeout=0.8).find_transaction(SENDER, 5)

    assert len(fake_node.calls("eth_getTransactionCount")) < 10
