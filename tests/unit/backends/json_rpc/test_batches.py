"""Batches of requests, receipts of a block, and nodes that refuse them."""

from collections.abc import Sequence
from typing import Any

import pytest
from eth_account import Account
from pydantic import SecretStr

from backends.json_rpc import JSONRPCChain, requests
from backends.json_rpc.node import MAX_RESPONSE_BYTES, Node, Observed
from dev import stablecoin as coin
from signer.errors import ChainError, ChainUnavailableError
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Drop, Error, Reply, Result
from tests.support.rpc import RECEIPT, Three, client


HASHES = tuple("0x" + f"{number:02x}" * 32 for number in range(120))

REFUSALS: dict[str, Reply] = {
    "one-error": Error(-32600, "batching is not allowed"),
    "http-400": Body(b"batch?", status=400),
    "http-413": Body(b"", status=413),
    "http-429": Body(b"", status=429),
    "http-500": Body(b"", status=500),
    "text": Body(b"what?"),
    "too-large": Body(b" " * (MAX_RESPONSE_BYTES + 1)),
    "nothing": Body(b"[]"),
    "other-ids": Body(
        b'[7, null, {"id": [1], "result": 1}, {"id": 9999, "result": null}]'
    ),
    "http-203": Body(
        b'[{"id": 1, "result": null}, {"id": 2, "result": null}]', status=203
    ),
    "errors-with-null": Body(
        b'[{"id": 1, "error": {"code": 1}, "result": null},'
        b' {"id": 2, "error": {"code": 1}, "result": null}]'
    ),
    "without-result": Body(b'[{"id": 1}, {"id": 2}]'),
    "an-id-twice": Body(
        b'[{"id": 1, "result": {}}, {"id": 1, "result": null}, {"id": 3}]'
    ),
    "strange-ids": Body(
        b'[7, null, {"id": [1], "result": "0x9"}, {"id": "1", "result": "0x9"},'
        b' {"id": true, "result": "0x9"}, {"id": 1.0, "result": "0x9"}]'
    ),
    "huge": Body(b"[" + b",".join(b'{"id": %d}' % i for i in range(9, 50_000)) + b"]"),
    "errors": Body(
        b'[{"id": 1, "error": {"code": -32005}}, {"id": 2, "error": true},'
        b' {"id": 4, "error": {"code": -32600, "message": "batch too large"}}]'
    ),
}


def receipt_of(tx_hash: str) -> dict[str, Any]:
    """Return a node's receipt of *tx_hash*."""
    return RECEIPT | {"transactionHash": tx_hash}


def test_fetches_receipts_in_one_exchange(fake_node: FakeNode) -> None:
    """Receipts match their transactions in any order of the response."""
    known = [receipt_of(tx_hash) for tx_hash in HASHES[:2]]
    # The fake node answers from the last member to the first.
    fake_node.script(
        "eth_getTransactionReceipt", Result(None), Result(known[1]), Result(known[0])
    )

    receipts = client(fake_node).receipts(HASHES[:3])

    assert set(receipts) == set(HASHES[:2])
    assert all(receipt.tx_hash == tx_hash for tx_hash, receipt in receipts.items())
    assert fake_node.batches == [3]


@pytest.mark.parametrize(
    ("count", "batches"), [(0, []), (1, []), (51, [50]), (120, [50, 50, 20])]
)
def test_limits_the_size_of_a_batch(
    fake_node: FakeNode, count: int, batches: list[int]
) -> None:
    """A batch has 2 to 50 members; public endpoints allow no more."""
    fake_node.script("eth_getTransactionReceipt", Result(None))

    assert client(fake_node).receipts(HASHES[:count]) == {}
    assert fake_node.batches == batches
    assert len(fake_node.requests) == count


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_sends_single_requests_if_a_batch_is_refused(
    fake_node: FakeNode, refusal: Reply
) -> None:
    fake_node.script("batch", refusal)
    fake_node.script(
        "eth_getTransactionReceipt", Result(receipt_of(HASHES[0])), Result(None)
    )

    receipts = client(fake_node).receipts(HASHES[:2])

    assert list(receipts) == [HASHES[0]]
    assert fake_node.calls("eth_getTransactionReceipt")[-2:] == [
        [HASHES[0]],
        [HASHES[1]],
    ]


def test_repeats_only_the_failed_member_of_a_batch(fake_node: FakeNode) -> None:
    """A member with an error is requested again, and no other."""
    fake_node.script(
        "eth_getTransactionReceipt",
        Error(-32603, "Internal error"),
        Result(receipt_of(HASHES[0])),
        Result(receipt_of(HASHES[1])),
    )

    receipts = client(fake_node).receipts(HASHES[:2])

    assert set(receipts) == set(HASHES[:2])
    assert fake_node.calls("eth_getTransactionReceipt")[2:] == [[HASHES[1]]]


def test_refuses_a_malformed_member_of_a_batch(fake_node: FakeNode) -> None:
    fake_node.script("eth_getTransactionReceipt", Result(receipt_of(HASHES[2])))

    with pytest.raises(ChainUnavailableError, match="malformed"):
        client(fake_node).receipts(HASHES[:2])


@pytest.mark.parametrize(
    ("fault", "requests"),
    [(Drop(), 3 + 3), (Body(status=503), 3 + 1), (Body(status=429), 3 + 1)],
    ids=["hung-up", "http-503", "http-429"],
)
def test_sends_few_requests_to_a_node_that_is_down(
    fake_node: FakeNode, fault: Reply, requests: int
) -> None:
    """A missing response is not a refusal of batches; a server error may be one."""
    fake_node.script("batch", fault)
    fake_node.script("eth_getTransactionReceipt", fault)

    with pytest.raises(ChainUnavailableError):
        client(fake_node).receipts(HASHES[:3])

    assert len(fake_node.requests) == requests


def test_a_malformed_receipt_hides_no_other(fake_node: FakeNode) -> None:
    """It is missing, which is not evidence of anything."""
    fake_node.script(
        "eth_getTransactionReceipt",
        Result(receipt_of(HASHES[1])),
        Result({"surprise": True}),
    )

    assert set(client(fake_node).receipts(HASHES[:2])) == {HASHES[1]}


def test_each_receipt_needs_a_quorum(three_nodes: Three) -> None:
    """A node may have one receipt and not the next."""
    first, second, third = map(receipt_of, HASHES[:3])
    forked = first | {"blockHash": "0x" + "cd" * 32}
    known = [(first, second, None), (first, None, None), (forked, second, third)]
    for node, (one, two, three) in zip(three_nodes, known, strict=True):
        replies = (Result(three), Result(two), Result(one))
        node.script("eth_getTransactionReceipt", *replies)

    receipts = client(*three_nodes).receipts(HASHES[:3])

    assert list(receipts) == list(HASHES[:2])
    assert receipts[HASHES[0]].block.hash == first["blockHash"]


def test_real_nodes_accept_batches(dev_chain: DevChain) -> None:
    """They respond to a batch in one exchange."""
    coin.fund(dev_chain.url, Account.create().address)
    known = dev_chain.rpc("eth_getBlockByNumber", "latest", False)["transactions"][0]
    with FakeNode(upstream=dev_chain.url) as node:
        receipts = client(node).receipts([known, HASHES[0]])

    assert list(receipts) == [known]
    assert receipts[known].succeeded
    assert node.batches == [2]
    assert len(node.requests) == 2


def test_each_call_is_observed_with_its_outcome(fake_node: FakeNode) -> None:
    """A batch is one exchange with several calls; a lost answer is an outcome too."""
    seen: list[tuple[str, list[tuple[str, str]], float]] = []

    def observe(node: str, calls: Observed, seconds: float) -> None:
        seen.append((node, [*calls], seconds))

    chain = JSONRPCChain([fake_node.url], timeout=5.0, observe=observe)
    fake_node.script("eth_chainId", Result("0x1"), Drop())
    fake_node.script("eth_getTransactionReceipt", Result(None))
    chain.chain_id()
    with pytest.raises(ChainError):
        chain.chain_id()
    chain.receipts(HASHES[:2])

    assert [(node, calls) for node, calls, _ in seen] == [
        ("node-1", [("eth_chainId", "ok")]),
        ("node-1", [("eth_chainId", "chain-unavailable")]),
        ("node-1", [("eth_getTransactionReceipt", "ok")] * 2),
    ]
    assert all(0 < seconds < 5 for _, _, seconds in seen)


def test_a_batch_that_is_not_answered_is_observed() -> None:
    seen: list[Observed] = []
    chain = JSONRPCChain(
        ["http://127.0.0.1:1"],
        timeout=5.0,
        observe=lambda _, calls, __: seen.append(calls),
    )
    with pytest.raises(ChainError):
        chain.receipts(HASHES[:2])

    assert seen == [[("eth_getTransactionReceipt", "chain-unavailable")] * 2]


BLOCK_RECEIPTS = "eth_getBlockReceipts"
SINGLE = "eth_getTransactionReceipt"
IN_ONE_BLOCK = tuple("0x" + f"{number:02x}" * 32 for number in range(1, 7))
OURS = IN_ONE_BLOCK[:3]
FOREIGN = {"transactionHash": IN_ONE_BLOCK[5], "type": "0x7e", "surprise": True}
IN_BLOCK = dict.fromkeys(IN_ONE_BLOCK, 16)

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


def receipt_with(tx_hash: str, **changes: object) -> dict[str, Any]:
    """Return a node's receipt of *tx_hash*."""
    return RECEIPT | {"transactionHash": tx_hash} | changes


def receipts_of(hashes: Sequence[str]) -> Reply:
    """Return the receipts of a block with *hashes* and a foreign transaction."""
    return Result([FOREIGN, *map(receipt_with, hashes)])


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
    fake_node.script(SINGLE, Result(receipt_with(IN_ONE_BLOCK[3])))

    found = client(fake_node).receipts(IN_ONE_BLOCK[:4], IN_BLOCK)

    assert set(found) == set(IN_ONE_BLOCK[:4])
    assert fake_node.calls(SINGLE) == [[IN_ONE_BLOCK[3]]]


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
    broken = receipt_with(OURS[1], status="0x2")
    entries = [receipt_with(OURS[0]), broken, receipt_with(OURS[2])]
    fake_node.script(BLOCK_RECEIPTS, Result(entries))
    fake_node.script(SINGLE, Result(receipt_with(OURS[1])))

    assert set(client(fake_node).receipts(OURS, IN_BLOCK)) == set(OURS)
    assert fake_node.calls(SINGLE) == [[OURS[1]]]


def test_nodes_without_the_method_count_towards_the_quorum(three_nodes: Three) -> None:
    """The receipts of one node and the single ones of another one agree."""
    first, second, third = three_nodes
    first.script(BLOCK_RECEIPTS, receipts_of(OURS))
    second.script(BLOCK_RECEIPTS, FAILURES["no-such-method"])
    second.script(SINGLE, *(Result(receipt_with(each)) for each in reversed(OURS)))
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
