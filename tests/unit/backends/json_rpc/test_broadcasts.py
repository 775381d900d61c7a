"""Batches of signed transactions, and the outcome of each."""

import time
from collections.abc import Sequence

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from dev import stablecoin as coin
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
)
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drop, Error, Reply, Result
from tests.support.payments import RECIPIENT, mined, signed
from tests.support.rpc import HASH_OF_SENT, Three, client
from tests.support.waiting import eventually


KNOWN = Error(-32000, "already known")
RAWS = [b"\x02signed" + bytes([number]) for number in range(120)]


def sent(node: FakeNode) -> list[bytes]:
    """Return the transactions that *node* got, in order."""
    return [bytes.fromhex(raw[2:]) for (raw,) in node.calls("eth_sendRawTransaction")]


def reasons(errors: Sequence[ChainError | None]) -> list[str | None]:
    """Return the reason or the code of each error."""
    return [None if error is None else _reason(error) for error in errors]


def _reason(error: ChainError) -> str:
    return error.reason if isinstance(error, BroadcastRejectedError) else error.code


@pytest.fixture
def node(fake_node: FakeNode) -> FakeNode:
    """A node that accepts each transaction."""
    fake_node.script("eth_sendRawTransaction", HASH_OF_SENT)
    return fake_node


@pytest.mark.parametrize(
    ("count", "batches"), [(0, []), (1, []), (2, [2]), (51, [50]), (120, [50, 50, 20])]
)
def test_transactions_are_sent_in_order(
    node: FakeNode, count: int, batches: list[int]
) -> None:
    """In batches of at most 50."""
    assert client(node).broadcast_all(RAWS[:count]) == [None] * count
    assert sent(node) == RAWS[:count]
    assert node.batches == batches


def test_each_transaction_has_its_outcome(node: FakeNode) -> None:
    """What a node knows is accepted; a clear rejection is not repeated."""
    # The members of a batch are answered from the last to the first.
    replies: list[Reply] = [
        HASH_OF_SENT,
        Error(-32000, "nonce too low"),
        KNOWN,
        Error(-32000, "transaction underpriced"),
        Error(-32000, "insufficient funds"),
    ]
    node.script("eth_sendRawTransaction", *replies[::-1])

    errors = client(node).broadcast_all(RAWS[:5])

    assert reasons(errors) == [
        None,
        "nonce-too-low",
        None,
        "underpriced",
        "insufficient-funds",
    ]
    assert len(node.requests) == 5


@pytest.mark.parametrize(
    "doubtful",
    [
        Error(-32600, "batch limit"),
        Error(-32005, "limit exceeded"),
        Error(-32000, "nonce too high"),
        Error(-32000, "what?"),
        Result({}),
    ],
)
def test_a_member_with_a_doubtful_error_is_sent_alone(
    node: FakeNode, doubtful: Reply
) -> None:
    """The error may be one of the batch, or of the order of its members."""
    replies = [HASH_OF_SENT, doubtful, HASH_OF_SENT]
    node.script("eth_sendRawTransaction", *replies, HASH_OF_SENT)

    assert client(node).broadcast_all(RAWS[:3]) == [None] * 3
    assert sent(node)[3:] == [RAWS[1]]


@pytest.mark.parametrize(
    "refusal",
    [
        Error(-32600, "batching is not allowed"),
        Body(status=413),
        Body(status=500),
        Body(status=503),
        Body(b"[]"),
        Body(b'[{"id": 1, "result": "0x"}, {"id": 1, "result": "0x"}]'),
    ],
    ids=["error", "http-413", "http-500", "http-503", "nothing", "an-id-twice"],
)
def test_a_node_without_batches_gets_single_requests(
    node: FakeNode, refusal: Reply
) -> None:
    node.script("batch", refusal)

    assert client(node).broadcast_all(RAWS[:3]) == [None] * 3
    assert sent(node)[3:] == RAWS[:3]


@pytest.mark.parametrize("fault", [Drop(), Drop(reset=True), Body(status=503)])
def test_without_an_answer_each_outcome_is_unknown(
    node: FakeNode, fault: Reply
) -> None:
    node.script("batch", fault)
    node.script("eth_sendRawTransaction", fault)

    assert reasons(client(node).broadcast_all(RAWS[:3])) == ["chain-unavailable"] * 3


def test_one_acceptance_is_enough_for_each(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """Each of two nodes accepts another transaction."""
    poor = Error(-32000, "insufficient funds")
    fake_node.script("eth_sendRawTransaction", HASH_OF_SENT, poor)
    other_node.script("eth_sendRawTransaction", poor, HASH_OF_SENT)

    assert client(fake_node, other_node).broadcast_all(RAWS[:2]) == [None, None]


def test_a_rejected_transaction_does_not_make_the_others_wait(
    three_nodes: Three,
) -> None:
    """A majority has rejected it; the slow node gets all transactions as well."""
    slow, *others = three_nodes
    slow.script("batch", Delay(60, Drop()))
    for node in others:
        _reject(node, RAWS[2])
    started = time.monotonic()

    errors = client(*three_nodes, timeout=60).broadcast_all(RAWS[:5])

    assert reasons(errors) == [None, None, "insufficient-funds", None, None]
    assert time.monotonic() - started < 20
    assert eventually(lambda: all(sent(node) == RAWS[:5] for node in three_nodes))


def test_nodes_that_did_not_respond_lately_are_not_waited_for(
    three_nodes: Three,
) -> None:
    """They get all transactions; whether they reject one is unknown."""
    last, *silent = three_nodes
    for node in silent:
        node.script("eth_getBalance", Body(status=502))
    last.script("eth_getBalance", Result("0x1"))
    chain = client(*three_nodes, timeout=60)
    with pytest.raises(ChainUnavailableError):
        chain.balance(RECIPIENT)
    for node in silent:
        node.script("batch", Delay(60, Drop()))
    _reject(last, RAWS[2])
    started = time.monotonic()

    errors = chain.broadcast_all(RAWS[:5])

    assert reasons(errors) == [None, None, "chain-unavailable", None, None]
    assert time.monotonic() - started < 20
    assert eventually(lambda: all(sent(node) == RAWS[:5] for node in three_nodes))


def _reject(node: FakeNode, rejected: bytes) -> None:
    """Let *node* accept each transaction of a batch but *rejected*."""
    poor = Error(-32000, "insufficient funds")
    replies = [poor if raw == rejected else HASH_OF_SENT for raw in RAWS[:5]]
    node.script("eth_sendRawTransaction", *replies[::-1])


def test_without_a_trusted_node_each_outcome_is_unknown(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """An error of the client itself is not raised either."""
    for node in (fake_node, other_node):
        node.script("eth_sendRawTransaction", Result("0x" + "11" * 32))
    chain = client(fake_node, other_node)
    chain.broadcast_all(RAWS[:2])

    errors = chain.broadcast_all(RAWS[:2])

    assert all(isinstance(error, ChainUnavailableError) for error in errors)
    assert "no node is trusted" in str(errors[0])
    assert len(fake_node.requests) == 2


def test_a_lost_reply_pays_once(fault_proxy: FakeNode, fresh_anvil: DevChain) -> None:
    """A node that took a batch and failed before its reply has it (R7)."""
    account, raws = _payments(fresh_anvil, 3)
    fault_proxy.script("batch", Drop(accepted=True, reset=True))
    chain = client(fault_proxy)

    unknown = chain.broadcast_all(raws)
    fault_proxy.forget()
    errors = chain.broadcast_all(raws)

    assert reasons(unknown) == ["chain-unavailable"] * 3
    assert set(reasons(errors)) <= {None, "nonce-too-low"}
    assert all(mined(chain, raw).succeeded for raw in raws)
    assert chain.transaction_count(account.address) == 3


def _payments(chain: DevChain, count: int) -> tuple[LocalAccount, list[bytes]]:
    account: LocalAccount = Account.create()
    coin.fund(chain.url, account.address)
    return account, [
        signed(account, nonce=nonce, value=1, to=RECIPIENT) for nonce in range(count)
    ]
