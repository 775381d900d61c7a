"""Many receipts in one exchange, also from nodes that take no batches."""

from typing import Any

import pytest

from signer.errors import ChainUnavailableError
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Drop, Error, Reply, Result
from tests.support.rpc import RECEIPT, client


HASHES = tuple("0x" + f"{number:02x}" * 32 for number in range(120))

REFUSALS: dict[str, Reply] = {
    "one-error": Error(-32600, "batching is not allowed"),
    "http-400": Body(b"batch?", status=400),
    "http-413": Body(b"", status=413),
    "text": Body(b"what?"),
    "nothing": Body(b"[]"),
    "strangers": Body(
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
}


def receipt_of(tx_hash: str) -> dict[str, Any]:
    """Return a node's receipt of *tx_hash*."""
    return RECEIPT | {"transactionHash": tx_hash}


def test_many_receipts_come_in_one_exchange(fake_node: FakeNode) -> None:
    """Whatever their order in the answer, each receipt is its transaction's."""
    known = [receipt_of(tx_hash) for tx_hash in HASHES[:2]]
    # The fake node answers from the last member to the first.
    fake_node.script(
        "eth_getTransactionReceipt", Result(None), Result(known[1]), Result(known[0])
    )

    receipts = client(fake_node).receipts(HASHES[:3])

    assert set(receipts) == set(HASHES[:2])
    assert all(receipt.tx_hash == tx_hash for tx_hash, receipt in receipts.items())
    assert fake_node.batches == [3]


def test_a_batch_is_never_too_large(fake_node: FakeNode) -> None:
    """More than fifty at once is more than public endpoints take."""
    fake_node.script("eth_getTransactionReceipt", Result(None))

    assert client(fake_node).receipts(HASHES) == {}
    assert fake_node.batches == [50, 50, 20]
    assert len(fake_node.requests) == 120


def test_one_receipt_needs_no_batch(fake_node: FakeNode) -> None:
    """A single question is asked singly, also as the rest of a longer list."""
    fake_node.script("eth_getTransactionReceipt", Result(None))
    chain = client(fake_node)

    chain.receipts(HASHES[:1])
    chain.receipts(HASHES[:51])

    assert fake_node.batches == [50]


def test_no_receipts_are_no_question(fake_node: FakeNode) -> None:
    """Nobody is asked for nothing."""
    assert client(fake_node).receipts([]) == {}
    assert fake_node.requests == []


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_node_that_takes_no_batches_is_asked_singly(
    fake_node: FakeNode, refusal: Reply
) -> None:
    """What a batch does not bring is asked once more, one by one."""
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


def test_trouble_with_one_member_is_not_the_others(fake_node: FakeNode) -> None:
    """A member that comes back as an error is asked again, and no other."""
    fake_node.script(
        "eth_getTransactionReceipt",
        Error(-32603, "Internal error"),
        Result(receipt_of(HASHES[0])),
        Result(receipt_of(HASHES[1])),
    )

    receipts = client(fake_node).receipts(HASHES[:2])

    assert set(receipts) == set(HASHES[:2])
    assert fake_node.calls("eth_getTransactionReceipt")[2:] == [[HASHES[1]]]


def test_a_receipt_that_is_none_is_not_believed_in_a_batch(fake_node: FakeNode) -> None:
    """What would be no answer by itself is none among others."""
    fake_node.script("eth_getTransactionReceipt", Result(receipt_of(HASHES[2])))

    with pytest.raises(ChainUnavailableError, match="malformed"):
        client(fake_node).receipts(HASHES[:2])


@pytest.mark.parametrize("fault", [Drop(), Body(status=503), Body(status=429)])
def test_a_node_that_is_away_is_not_asked_singly(
    fake_node: FakeNode, fault: Reply
) -> None:
    """Silence is no refusal of batches."""
    fake_node.script("batch", fault)

    with pytest.raises(ChainUnavailableError):
        client(fake_node).receipts(HASHES[:3])

    assert len(fake_node.requests) % 3 == 0


def test_what_came_ahead_is_forgotten(fake_node: FakeNode) -> None:
    """The next question is a new one, even if the batch ended in an error."""
    fake_node.script(
        "eth_getTransactionReceipt",
        Result(receipt_of(HASHES[0])),
        Result({"surprise": True}),
        Result(None),
    )
    chain = client(fake_node)
    with pytest.raises(ChainUnavailableError):
        chain.receipts(HASHES[:2])

    assert chain.receipt(HASHES[1]) is None


def test_real_nodes_take_batches(dev_chain: DevChain) -> None:
    """Anvil and eth-tester answer in one exchange."""
    known = dev_chain.rpc("eth_getBlockByNumber", "0x1", False)["transactions"][0]
    with FakeNode(upstream=dev_chain.url) as node:
        receipts = client(node).receipts([known, HASHES[0]])

    assert list(receipts) == [known]
    assert receipts[known].succeeded
    assert node.batches == [2]
    assert len(node.requests) == 2
