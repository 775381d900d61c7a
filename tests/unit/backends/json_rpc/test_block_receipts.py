"""Receipts of transactions that share a block, which come in one response."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import SecretStr

from backends.json_rpc import requests
from backends.json_rpc.node import MAX_RESPONSE_BYTES, Node
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Drop, Error, Reply, Result
from tests.support.rpc import RECEIPT, Three, client


BLOCK_RECEIPTS = "eth_getBlockReceipts"
SINGLE = "eth_getTransactionReceipt"
HASHES = tuple("0x" + f"{number:02x}" * 32 for number in range(1, 7))
OURS = HASHES[:3]
FOREIGN = {"transactionHash": HASHES[5], "type": "0x7e", "surprise": True}
IN_BLOCK = dict.fromkeys(HASHES, 16)

FAILURES: dict[str, Reply] = {
    "no-such-method": Error(-32601, "the method does not exist"),
    "refused": Error(-32000, "archive only"),
    "no-list": Result({}),
    "malformed": Result([{"surprise": True}]),
    "no-object": Result([None]),
    "http-503": Body(status=503),
    "too-large": Body(b"[" + b" " * MAX_RESPONSE_BYTES + b"]"),
    "hung-up": Drop(),
}


def receipt_of(tx_hash: str, **changes: object) -> dict[str, Any]:
    """Return a node's receipt of *tx_hash*."""
    return RECEIPT | {"transactionHash": tx_hash} | changes


def receipts_of(hashes: Sequence[str]) -> Reply:
    """Return the receipts of a block with *hashes* and a foreign transaction."""
    return Result([FOREIGN, *map(receipt_of, hashes)])


def test_three_receipts_of_a_block_are_one_call(fake_node: FakeNode) -> None:
    """Foreign receipts, of any type, are not parsed."""
    fake_node.script(BLOCK_RECEIPTS, receipts_of(OURS))

    found = client(fake_node).receipts(OURS, IN_BLOCK)

    assert list(found) == [*OURS]
    assert all(found[each].tx_hash == each for each in OURS)
    assert [each.method for each in fake_node.requests] == [BLOCK_RECEIPTS]
    assert fake_node.calls(BLOCK_RECEIPTS) == [["0x10"]]


def test_what_is_not_in_the_block_is_requested_alone(fake_node: FakeNode) -> None:
    """The height is a guess, and no evidence of anything."""
    fake_node.script(BLOCK_RECEIPTS, receipts_of(OURS))
    fake_node.script(SINGLE, Result(receipt_of(HASHES[3])))

    found = client(fake_node).receipts(HASHES[:4], IN_BLOCK)

    assert set(found) == set(HASHES[:4])
    assert fake_node.calls(SINGLE) == [[HASHES[3]]]


@pytest.mark.parametrize(
    "reply", [Result(None), Result([]), Error(-32000, "block not found")]
)
def test_a_node_without_the_block(fake_node: FakeNode, reply: Reply) -> None:
    """It is late, and serves the method: only this time, it is asked for each."""
    fake_node.script(BLOCK_RECEIPTS, reply, receipts_of(OURS))
    fake_node.script(SINGLE, Result(None))
    chain = client(fake_node)

    assert chain.receipts(OURS, IN_BLOCK) == {}
    assert len(chain.receipts(OURS, IN_BLOCK)) == 3
    assert len(fake_node.calls(SINGLE)) == 3


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_node_without_the_method(fake_node: FakeNode, failure: Reply) -> None:
    """It is asked for single receipts at once, and again after ten minutes."""
    fake_node.script(BLOCK_RECEIPTS, failure)
    fake_node.script(SINGLE, Result(None))
    now = 1000.0
    node = Node(SecretStr(fake_node.url), 5.0, clock=lambda: now)

    assert requests.receipts_in(node, 16, OURS) == [None] * 3
    asked = len(fake_node.calls(BLOCK_RECEIPTS))
    now += 599
    assert requests.receipts_in(node, 16, OURS) == [None] * 3
    assert len(fake_node.calls(BLOCK_RECEIPTS)) == asked
    assert len(fake_node.calls(SINGLE)) == 6
    now += 1
    requests.receipts_in(node, 16, OURS)
    assert len(fake_node.calls(BLOCK_RECEIPTS)) > asked


def test_a_malformed_receipt_of_a_block_is_requested_alone(
    fake_node: FakeNode,
) -> None:
    """It hides no other receipt of the block."""
    broken = receipt_of(OURS[1], status="0x2")
    entries = [receipt_of(OURS[0]), broken, receipt_of(OURS[2])]
    fake_node.script(BLOCK_RECEIPTS, Result(entries))
    fake_node.script(SINGLE, Result(receipt_of(OURS[1])))

    assert set(client(fake_node).receipts(OURS, IN_BLOCK)) == set(OURS)
    assert fake_node.calls(SINGLE) == [[OURS[1]]]


def test_nodes_without_the_method_count_towards_the_quorum(three_nodes: Three) -> None:
    """The receipts of one node and the single ones of another one agree."""
    first, second, third = three_nodes
    first.script(BLOCK_RECEIPTS, receipts_of(OURS))
    second.script(BLOCK_RECEIPTS, FAILURES["no-such-method"])
    second.script(SINGLE, *(Result(receipt_of(each)) for each in reversed(OURS)))
    for method in (BLOCK_RECEIPTS, "batch"):
        third.script(method, Drop())

    assert set(client(*three_nodes).receipts(OURS, IN_BLOCK)) == set(OURS)


def test_real_nodes_agree_with_their_single_receipts(dev_chain: DevChain) -> None:
    """anvil serves the method, and eth-tester does not."""
    known = dev_chain.rpc("eth_getBlockByNumber", "0x1", False)["transactions"]
    asked = [*known, *OURS]
    with FakeNode(upstream=dev_chain.url) as node:
        chain = client(node)
        single = chain.receipts(asked)
        found = chain.receipts(asked, dict.fromkeys(asked, 1))

    assert found == single
    assert list(found) == known
    assert len(node.calls(BLOCK_RECEIPTS)) == 1
