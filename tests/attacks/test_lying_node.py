"""One node of three that lies about what a transaction costs, or about its outcome."""

from collections.abc import Callable, Sequence

import pytest

from backends.json_rpc import JSONRPCChain
from signer.errors import (
    BroadcastRejectedError,
    ChainUnavailableError,
    ExecutionRevertedError,
)
from signer.ports.chain import Fees
from tests.fixtures.replies import Body, Error, Reply, Result
from tests.support.rpc import (
    ADDRESS,
    BLOCK,
    CALL,
    HASH,
    RAW,
    Three,
    broadcast,
    client,
    script_all,
)
from tests.support.waiting import eventually


GWEI = 10**9
REVERT = Error(3, "execution reverted", "0x75e91ce7")

positions = pytest.mark.parametrize("liar", [0, 1, 2])


def _script(
    nodes: Three, method: str, honest: Sequence[Reply], lie: Reply, at: int
) -> None:
    replies = list(honest)
    replies.insert(at, lie)
    script_all(nodes, method, *replies)


def _head(base_fee: int | None) -> Result:
    fee = {"baseFeePerGas": None if base_fee is None else hex(base_fee)}
    return Result(BLOCK | fee)


@positions
@pytest.mark.parametrize("lie", [None, 0, 1, 30_000 * GWEI])
def test_base_fee(three_nodes: Three, liar: int, lie: int | None) -> None:
    """The base fee is between those of honest nodes, and the kind of fee is theirs."""
    honest = [_head(100 * GWEI), _head(110 * GWEI)]
    _script(three_nodes, "eth_getBlockByNumber", honest, _head(lie), liar)
    tips = [Result(hex(2 * GWEI))] * 3
    script_all(three_nodes, "eth_maxPriorityFeePerGas", *tips)
    script_all(three_nodes, "eth_gasPrice", *[Result("0x1")] * 3)

    fees = client(*three_nodes).fees()

    assert fees.base_fee in {100 * GWEI, 110 * GWEI}
    assert fees.priority_fee == 2 * GWEI


@positions
def test_invented_base_fee(three_nodes: Three, liar: int) -> None:
    """On a chain without EIP-1559, one node cannot invent a base fee."""
    honest = [_head(None), _head(None)]
    _script(three_nodes, "eth_getBlockByNumber", honest, _head(GWEI), liar)
    script_all(three_nodes, "eth_gasPrice", *[Result(hex(5 * GWEI))] * 3)
    script_all(three_nodes, "eth_maxPriorityFeePerGas", *[Result("0x1")] * 3)

    assert client(*three_nodes).fees() == Fees(None, 5 * GWEI)


Ask = Callable[[JSONRPCChain], object]


def _word(amount: int) -> Reply:
    return Result("0x" + amount.to_bytes(32, "big").hex())


VALUES: dict[str, tuple[str, Sequence[Reply], Sequence[Reply], Ask, set[object]]] = {
    # The tip is between those of honest nodes.
    "tip": (
        "eth_maxPriorityFeePerGas",
        [Result(hex(2 * GWEI)), Result(hex(3 * GWEI))],
        [Result("0x0"), Result(hex(10_000 * GWEI))],
        lambda chain: chain.fees().priority_fee,
        {2 * GWEI, 3 * GWEI},
    ),
    # Too little gas would fail, and too much would jam.
    "gas": (
        "eth_estimateGas",
        [Result(hex(65_000)), Result(hex(65_100))],
        [Result(hex(21_500)), Result(hex(16_000_000)), REVERT],
        lambda chain: chain.estimate_gas(CALL),
        {65_000, 65_100},
    ),
    # The wallet looks neither empty nor full.
    "balance": (
        "eth_getBalance",
        [Result(hex(10**18)), Result(hex(10**18 + 1))],
        [Result("0x0"), Result(hex(10**30))],
        lambda chain: chain.balance(CALL.to),
        {10**18, 10**18 + 1},
    ),
    "tokens": (
        "eth_call",
        [_word(7)] * 2,
        [_word(0), _word(10**30)],
        lambda chain: int.from_bytes(chain.call(CALL), "big"),
        {7},
    ),
    # A token does not look like an account without code.
    "contract": (
        "eth_getCode",
        [Result("0x60")] * 2,
        [Result("0x")],
        lambda chain: chain.code(CALL.to),
        {b"\x60"},
    ),
    # The wallet is not paused, and no pending transaction is hidden.
    "nonce": (
        "eth_getTransactionCount",
        [Result("0x7")] * 2,
        [Result("0x0"), Result(hex(1_000))],
        lambda chain: chain.pending_count(ADDRESS),
        {7},
    ),
    # What another node accepts is not rejected.
    "broadcast": (
        "eth_sendRawTransaction",
        [Result(HASH)] * 2,
        [
            Error(-32000, lie)
            for lie in (
                "insufficient funds",
                "transaction underpriced",
                "nonce too low",
            )
        ],
        lambda chain: broadcast(chain, RAW),
        {None},
    ),
}


@positions
@pytest.mark.parametrize(
    ("name", "lie"),
    [(name, each) for name, (_, _, lies, *_) in VALUES.items() for each in lies],
)
def test_a_lie_changes_no_value(
    three_nodes: Three, liar: int, name: str, lie: Reply
) -> None:
    """Each value is one of those of honest nodes, or between them."""
    method, honest, _, ask, expected = VALUES[name]
    script_all(three_nodes, "eth_getBlockByNumber", *[_head(100)] * 3)
    _script(three_nodes, method, honest, lie, liar)

    assert ask(client(*three_nodes)) in expected


@positions
def test_hidden_revert(three_nodes: Three, liar: int) -> None:
    """One node cannot have a nonce used for a transfer that will revert."""
    honest = [REVERT, REVERT]
    _script(three_nodes, "eth_estimateGas", honest, Result(hex(65_000)), liar)

    with pytest.raises(ExecutionRevertedError):
        client(*three_nodes).estimate_gas(CALL)


def test_revert_without_a_quorum(three_nodes: Three) -> None:
    """While the other nodes are down, the word of one does not refuse a refund."""
    down = Body(status=503)
    script_all(three_nodes, "eth_estimateGas", REVERT, down, down)

    with pytest.raises(ChainUnavailableError):
        client(*three_nodes).estimate_gas(CALL)


@positions
@pytest.mark.parametrize("lie", ["insufficient funds", "nonce too low"])
def test_rejection_without_a_quorum(three_nodes: Three, liar: int, lie: str) -> None:
    """While the other nodes are down, the outcome of a broadcast is unknown."""
    down = [Body(status=503)] * 2
    _script(three_nodes, "eth_sendRawTransaction", down, Error(-32000, lie), liar)

    with pytest.raises(ChainUnavailableError):
        broadcast(client(*three_nodes), RAW)


@positions
@pytest.mark.parametrize("lie", ["nonce too low", "transaction underpriced"])
def test_another_reason(three_nodes: Three, liar: int, lie: str) -> None:
    """One node cannot change the reason for which the others reject."""
    honest = [Error(-32000, "insufficient funds")] * 2
    _script(three_nodes, "eth_sendRawTransaction", honest, Error(-32000, lie), liar)

    with pytest.raises(BroadcastRejectedError) as caught:
        broadcast(client(*three_nodes), RAW)

    assert caught.value.reason == "insufficient-funds"


def test_a_liar_about_the_kind_of_fee_is_distrusted(three_nodes: Three) -> None:
    """The node that hides the base fee does not count again for a while."""
    script_all(three_nodes, "eth_getBlockByNumber", _head(None), _head(9), _head(9))
    script_all(three_nodes, "eth_maxPriorityFeePerGas", *[Result("0x1")] * 3)
    script_all(three_nodes, "eth_gasPrice", *[Result("0x1")] * 3)
    script_all(three_nodes, "eth_blockNumber", *[Result("0x10")] * 3)
    script_all(three_nodes, "eth_getTransactionCount", *[Result("0x5")] * 3)
    chain = client(*three_nodes)
    chain.fees()

    assert eventually(
        lambda: (
            [status.trusted for status in chain.node_statuses(CALL.to, [])]
            == [False, True, True]
        )
    )
