"""One node of three that lies about one value or one member of a batch."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from signer.errors import (
    BroadcastRejectedError,
    ChainUnavailableError,
    ExecutionRevertedError,
)
from signer.ports.chain import Call, Fees
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Computed, Error, Reply, Result
from tests.support.rpc import ADDRESS, BLOCK, HASH_OF_SENT, RECEIPT, Three, client
from tests.support.waiting import eventually


GWEI = 10**9
REVERT = Error(3, "execution reverted", "0x75e91ce7")
CALLS = [Call(ADDRESS, ADDRESS, bytes([number])) for number in range(4)]
RAWS = [b"\x02signed" + bytes([number]) for number in range(4)]
HONEST = (65_000, 65_001, 65_002, 65_003)

HASHES = ["0x" + f"{number:02x}" * 32 for number in range(1, 5)]
RECEIPTS = [RECEIPT | {"transactionHash": each} for each in HASHES]
FAKE = RECEIPTS[0] | {"status": "0x0", "blockHash": "0x" + "cd" * 32}

positions = pytest.mark.parametrize("liar", [0, 1, 2])
members = pytest.mark.parametrize("member", range(len(CALLS)))


def _script(nodes: Three) -> None:
    """Let all nodes answer honestly; some are a block ahead."""
    for number, node in enumerate(nodes):
        head = BLOCK | {"baseFeePerGas": hex((100 + number) * GWEI)}
        node.script("eth_getTransactionCount", Result("0x7"))
        node.script("eth_getBlockByNumber", Result(head))
        node.script("eth_maxPriorityFeePerGas", Result(hex((2 + number) * GWEI)))
        node.script("eth_gasPrice", Result(hex(GWEI)))
        node.script("eth_estimateGas", *_backwards(*map(_gas, HONEST)))
        node.script("eth_sendRawTransaction", HASH_OF_SENT)


def _gas(amount: int) -> Reply:
    return Result(hex(amount))


def _backwards(*replies: Reply) -> Sequence[Reply]:
    """Return *replies* in the order in which a fake node answers a batch."""
    return replies[::-1]


def _with_lie(lie: Reply, member: int) -> Sequence[Reply]:
    replies = [*map(_gas, HONEST)]
    replies[member] = lie
    return _backwards(*replies)


@positions
@pytest.mark.parametrize(
    ("method", "lie"),
    [
        ("eth_getTransactionCount", Result("0x0")),
        ("eth_getTransactionCount", Result("0x3e8")),
        ("eth_getTransactionCount", Error(-32602, "pending")),
        ("eth_getTransactionCount", Result("surprise")),
        ("eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": None})),
        ("eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": "0x0"})),
        ("eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": hex(10**15)})),
        ("eth_getBlockByNumber", Result(None)),
        ("eth_maxPriorityFeePerGas", Result("0x0")),
        ("eth_maxPriorityFeePerGas", Result(hex(10**15))),
        ("eth_maxPriorityFeePerGas", Result([])),
        ("eth_estimateGas", Result("0x1")),
        ("eth_estimateGas", Result(hex(16_000_000))),
        ("eth_estimateGas", REVERT),
        ("batch", Body(b"[]", status=200)),
        ("batch", Body(status=503)),
    ],
)
def test_a_lie_changes_no_value_of_a_preflight(
    three_nodes: Three, liar: int, method: str, lie: Reply
) -> None:
    """Each value stays between those of honest nodes."""
    _script(three_nodes)
    three_nodes[liar].script(method, lie)
    honest = [number for number in range(3) if number != liar]

    preflight = client(*three_nodes).preflight(ADDRESS, CALLS)

    assert preflight.pending_count == 7
    assert preflight.fees.base_fee is not None
    assert 100 + honest[0] <= preflight.fees.base_fee // GWEI <= 100 + honest[1]
    assert 2 + honest[0] <= preflight.fees.priority_fee // GWEI <= 2 + honest[1]
    assert preflight.estimates == HONEST


@positions
@members
@pytest.mark.parametrize("lie", [Result("0x1"), Result(hex(16_000_000)), REVERT])
def test_a_lie_about_one_call_changes_no_estimate(
    three_nodes: Three, liar: int, member: int, lie: Reply
) -> None:
    _script(three_nodes)
    three_nodes[liar].script("eth_estimateGas", *_with_lie(lie, member))

    assert client(*three_nodes).preflight(ADDRESS, CALLS).estimates == HONEST


@positions
@members
def test_a_hidden_revert(three_nodes: Three, liar: int, member: int) -> None:
    """One node cannot have a nonce used for a transfer that will revert."""
    _script(three_nodes)
    for number, node in enumerate(three_nodes):
        if number != liar:
            node.script("eth_estimateGas", *_with_lie(REVERT, member))

    estimates = client(*three_nodes).preflight(ADDRESS, CALLS).estimates

    assert isinstance(estimates[member], ExecutionRevertedError)
    others = [number for number in range(4) if number != member]
    assert [estimates[i] for i in others] == [HONEST[i] for i in others]


@members
def test_a_revert_without_a_quorum(three_nodes: Three, member: int) -> None:
    """While the other nodes fail, the word of one does not refuse a refund."""
    _script(three_nodes)
    three_nodes[0].script("eth_estimateGas", *_with_lie(REVERT, member))
    for node in three_nodes[1:]:
        node.script("eth_estimateGas", *_with_lie(Result({}), member), Result({}))

    estimates = client(*three_nodes).preflight(ADDRESS, CALLS).estimates

    assert isinstance(estimates[member], ChainUnavailableError)
    assert sum(isinstance(each, int) for each in estimates) == 3


def test_swapped_answers_are_outvoted(three_nodes: Three) -> None:
    """A node that answers each member with the value of another changes nothing."""
    _script(three_nodes)
    three_nodes[1].script("eth_estimateGas", *map(_gas, HONEST))

    assert client(*three_nodes).preflight(ADDRESS, CALLS).estimates == HONEST


def test_a_liar_about_the_kind_of_fee_is_distrusted(three_nodes: Three) -> None:
    """The node that hides the base fee in a batch does not count for a while."""
    _script(three_nodes)
    three_nodes[0].script(
        "eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": None})
    )
    chain = client(*three_nodes)

    chain.preflight(ADDRESS, CALLS)
    chain.preflight(ADDRESS, CALLS)

    assert [len(node.batches) for node in three_nodes] == [1, 2, 2]


def test_an_invented_base_fee(three_nodes: Three) -> None:
    _script(three_nodes)
    for node in three_nodes[1:]:
        head = BLOCK | {"baseFeePerGas": None}
        node.script("eth_getBlockByNumber", Result(head))

    assert client(*three_nodes).preflight(ADDRESS, []).fees == Fees(None, GWEI)


@positions
@members
@pytest.mark.parametrize(
    "lie",
    [
        Error(-32000, "insufficient funds"),
        Error(-32000, "nonce too low"),
        Error(-32000, "exceeds block gas limit"),
        Error(-32603, "Internal error"),
        Result("0x" + "00" * 32),
        Result("0x"),
    ],
    ids=["funds", "nonce", "other", "internal", "other-hash", "no-hash"],
)
def test_a_lie_rejects_no_transaction(
    three_nodes: Three, liar: int, member: int, lie: Reply
) -> None:
    """One node cannot reject what another one accepts."""
    _script(three_nodes)
    _lie_about(three_nodes[liar], member, lie)

    assert client(*three_nodes).broadcast_all(RAWS) == [None] * 4
    assert eventually(lambda: all(len(node.requests) >= 4 for node in three_nodes))


def _lie_about(node: FakeNode, member: int, lie: Reply) -> None:
    replies: list[Reply] = [HASH_OF_SENT] * 4
    replies[member] = lie
    # If the member is sent again alone, the answer is the same.
    node.script("eth_sendRawTransaction", *_backwards(*replies), lie)


@members
def test_a_rejection_needs_a_quorum(three_nodes: Three, member: int) -> None:
    """Two nodes reject a transaction, and one is down: the others are sent."""
    rejection = Error(-32000, "insufficient funds")
    _script(three_nodes)
    for node in three_nodes[:2]:
        _lie_about(node, member, rejection)
    three_nodes[2].script("batch", Body(status=503))
    three_nodes[2].script("eth_sendRawTransaction", Body(status=503))
    chain = client(*three_nodes)

    errors = chain.broadcast_all(RAWS)

    assert isinstance(errors[member], BroadcastRejectedError)
    assert errors.count(None) == 3

    three_nodes[1].script("batch", Body(status=503))
    three_nodes[1].script("eth_sendRawTransaction", Body(status=503))
    _lie_about(three_nodes[0], member, rejection)

    errors = chain.broadcast_all(RAWS)

    assert isinstance(errors[member], ChainUnavailableError)
    assert errors.count(None) == 3


def test_a_liar_about_a_hash_is_distrusted(three_nodes: Three) -> None:
    """One wrong hash among right ones is enough, also in a late response."""
    _script(three_nodes)
    for node in three_nodes[1:]:
        _lie_about(node, 2, Error(-32000, "insufficient funds"))
    _lie_about(three_nodes[0], 2, Result("0x" + "00" * 32))
    chain = client(*three_nodes)

    with capture_logs() as events:
        errors = chain.broadcast_all(RAWS)
        assert eventually(lambda: events)
    chain.broadcast_all(RAWS)

    assert [error is None for error in errors] == [True, True, False, True]
    assert isinstance(errors[2], BroadcastRejectedError)
    assert [event["reason"] for event in events] == ["impossible-answer"]
    assert eventually(lambda: all(len(node.batches) == 2 for node in three_nodes[1:]))
    assert len(three_nodes[0].batches) == 1


def test_only_a_liar_is_left(three_nodes: Three) -> None:
    """A node that computes gas from nothing is not believed alone."""
    _script(three_nodes)
    three_nodes[0].script("eth_estimateGas", Computed(lambda _: "0x5208"))
    for node in three_nodes[1:]:
        node.script("eth_estimateGas", Body(b"[]"))

    estimates = client(*three_nodes).preflight(ADDRESS, CALLS).estimates

    assert all(isinstance(each, ChainUnavailableError) for each in estimates)


@positions
@pytest.mark.parametrize(
    "lie",
    [
        Result([]),
        Result(None),
        Result([FAKE, *RECEIPTS[1:]]),
        Result([FAKE, *RECEIPTS]),
        Result([*RECEIPTS[1:], RECEIPTS[1]]),
        Result("0x"),
        Error(-32601, "no such method"),
        Body(b"{", status=200),
    ],
    ids=["empty", "late", "other", "twice", "missing", "no-list", "refused", "text"],
)
@pytest.mark.parametrize("single", [Result(None), Result(FAKE)])
def test_a_lie_about_a_block_changes_no_receipt(
    three_nodes: Three, liar: int, lie: Reply, single: Reply
) -> None:
    """Each receipt of a block needs a quorum, as one that is requested alone."""
    for node in three_nodes:
        node.script("eth_getBlockReceipts", Result(RECEIPTS))
    three_nodes[liar].script("eth_getBlockReceipts", lie)
    three_nodes[liar].script("eth_getTransactionReceipt", single)

    found = client(*three_nodes).receipts(HASHES, dict.fromkeys(HASHES, 16))

    assert list(found) == HASHES
    assert {each.block.hash for each in found.values()} == {RECEIPT["blockHash"]}
    assert all(each.succeeded for each in found.values())


def test_a_node_that_invents_receipts_of_a_block_is_distrusted(
    three_nodes: Three,
) -> None:
    for node in three_nodes:
        node.script("eth_getBlockReceipts", Result(RECEIPTS))
    three_nodes[0].script("eth_getBlockReceipts", Result([FAKE, *RECEIPTS[1:]]))

    with capture_logs() as logs:
        client(*three_nodes).receipts(HASHES, dict.fromkeys(HASHES, 16))
        # Until the third node answers, either of the two may be wrong.
        assert eventually(
            lambda: (1, "contradiction") in [(e["node"], e["reason"]) for e in logs], 10
        )
