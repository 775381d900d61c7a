"""Results that the JSON-RPC client accepts, and those that it refuses."""

from typing import Any

import pytest

from signer.errors import ChainUnavailableError, ExecutionRevertedError
from signer.ports.chain import Fees
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Error, Reply, Result
from tests.support.rpc import ADDRESS, BLOCK, CALL, HASH, RECEIPT, client, receipt_of


def test_an_offchain_lookup_is_a_revert(fake_node: FakeNode) -> None:
    """An OffchainLookup (EIP-3668) is not followed."""
    lookup = "0x556f1830" + "00" * 160
    fake_node.script("eth_call", Error(3, "execution reverted", lookup))

    with pytest.raises(ExecutionRevertedError, match="custom error 0x556f1830"):
        client(fake_node).call(CALL)

    assert len(fake_node.requests) == 1


def test_blocks_may_have_long_extra_data(fake_node: FakeNode) -> None:
    """Proof-of-authority chains exceed the limit of Ethereum."""
    block = BLOCK | {"extraData": "0x" + "00" * 97}
    fake_node.script("eth_getBlockByNumber", Result(block))

    assert client(fake_node).latest_block().number == 16


def test_a_chain_without_base_fee_has_a_gas_price(fake_node: FakeNode) -> None:
    fake_node.script(
        "eth_getBlockByNumber", Result({"number": "0x1", "hash": "0x" + "00" * 32})
    )
    fake_node.script("eth_maxPriorityFeePerGas", Error(-32601, "Method not found"))
    fake_node.script("eth_gasPrice", Result("0x5"))

    assert client(fake_node).fees() == Fees(base_fee=None, priority_fee=5)


def test_a_base_fee_may_be_zero(fake_node: FakeNode) -> None:
    fake_node.script("eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": "0x0"}))
    fake_node.script("eth_maxPriorityFeePerGas", Result("0x1"))

    assert client(fake_node).fees() == Fees(base_fee=0, priority_fee=1)


def test_fees_take_one_exchange(fake_node: FakeNode) -> None:
    fake_node.script("eth_getBlockByNumber", Result(BLOCK))
    fake_node.script("eth_maxPriorityFeePerGas", Result("0x7"))

    assert client(fake_node).fees() == Fees(base_fee=100, priority_fee=7)
    assert fake_node.batches == [2]
    assert len(fake_node.requests) == 2


@pytest.mark.parametrize(
    "reply", [Result(None), Error(-32000, "header not found")], ids=["null", "error"]
)
def test_a_missing_block_is_none(fake_node: FakeNode, reply: Reply) -> None:
    """Nodes return null or an error."""
    fake_node.script("eth_getBlockByNumber", reply)

    assert client(fake_node).block(16) is None


def test_another_block_is_refused(fake_node: FakeNode) -> None:
    """The number must be the requested one."""
    fake_node.script("eth_getBlockByNumber", Result(BLOCK))

    with pytest.raises(ChainUnavailableError, match="malformed"):
        client(fake_node).block(17)


@pytest.mark.parametrize(
    "reply",
    [Result(None), Result(RECEIPT | {"blockHash": None})],
    ids=["null", "pending"],
)
def test_a_pending_receipt_is_none(fake_node: FakeNode, reply: Reply) -> None:
    fake_node.script("eth_getTransactionReceipt", reply)

    assert receipt_of(client(fake_node), HASH) is None


@pytest.mark.parametrize(
    ("fields", "fee"),
    [
        ({}, None),
        ({"gasUsed": "0x5208"}, None),
        ({"gasUsed": "0x5208", "effectiveGasPrice": None}, None),
        ({"gasUsed": "0x5208", "effectiveGasPrice": "0x2"}, 42_000),
        ({"gasUsed": "0x1", "effectiveGasPrice": "0x2", "l1Fee": "0x5"}, 7),
    ],
)
def test_the_fee_spoils_no_receipt(
    fake_node: FakeNode, fields: dict[str, str], fee: int | None
) -> None:
    """And nodes need not agree about it."""
    replies = Result(RECEIPT | fields), Result(RECEIPT)
    fake_node.script("eth_getTransactionReceipt", *replies)
    found = receipt_of(client(fake_node), HASH)

    assert found is not None
    assert found.fee == fee
    assert found == receipt_of(client(fake_node), HASH)


def test_an_index_in_progress_is_not_a_missing_receipt(fake_node: FakeNode) -> None:
    """The node does not know yet."""
    fake_node.script(
        "eth_getTransactionReceipt",
        Error(-32000, "transaction indexing is in progress"),
    )

    with pytest.raises(ChainUnavailableError):
        receipt_of(client(fake_node), HASH)


@pytest.mark.parametrize(
    "change",
    [
        {"transactionHash": "0x" + "22" * 32},
        {"status": "0x2"},
        {"status": None},
        {"blockNumber": None},
        {"blockHash": "0xab"},
        {"logs": None},
        {"logs": [{"address": ADDRESS, "topics": None, "data": "0x"}]},
    ],
    ids=repr,
)
def test_a_malformed_receipt_is_refused(
    fake_node: FakeNode, change: dict[str, Any]
) -> None:
    fake_node.script("eth_getTransactionReceipt", Result(RECEIPT | change))

    with pytest.raises(ChainUnavailableError, match="malformed"):
        receipt_of(client(fake_node), HASH)
