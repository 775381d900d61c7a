"""One node of three that lies about what a transaction costs, or about its outcome."""

from collections.abc import Sequence

import pytest

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
@pytest.mark.parametrize("lie", [0, 10_000 * GWEI])
def test_tip(three_nodes: Three, liar: int, lie: int) -> None:
    """The tip is between those of honest nodes."""
    script_all(three_nodes, "eth_getBlockByNumber", *[_head(100)] * 3)
    honest = [Result(hex(2 * GWEI)), Result(hex(3 * GWEI))]
    method = "eth_maxPriorityFeePerGas"
    _script(three_nodes, method, honest, Result(hex(lie)), liar)

    assert client(*three_nodes).fees().priority_fee in {2 * GWEI, 3 * GWEI}


@positions
def test_invented_base_fee(three_nodes: Three, liar: int) -> None:
    """On a chain without EIP-1559, one node cannot invent a base fee."""
    honest = [_head(None), _head(None)]
    _script(three_nodes, "eth_getBlockByNumber", honest, _head(GWEI), liar)
    script_all(three_nodes, "eth_gasPrice", *[Result(hex(5 * GWEI))] * 3)
    script_all(three_nodes, "eth_maxPriorityFeePerGas", *[Result("0x1")] * 3)

    assert client(*three_nodes).fees() == Fees(None, 5 * GWEI)


@positions
@pytest.mark.parametrize("lie", [21_500, 16_000_000])
def test_gas_estimate(three_nodes: Three, liar: int, lie: int) -> None:
    """An absurd estimate is outvoted: too little would fail, too much would jam."""
    honest = [Result(hex(65_000)), Result(hex(65_100))]
    _script(three_nodes, "eth_estimateGas", honest, Result(hex(lie)), liar)

    assert client(*three_nodes).estimate_gas(CALL) in {65_000, 65_100}


@positions
def test_invented_revert(three_nodes: Three, liar: int) -> None:
    """One node cannot have a refund refused."""
    honest = [Result(hex(65_000))] * 2
    _script(three_nodes, "eth_estimateGas", honest, REVERT, liar)

    assert client(*three_nodes).estimate_gas(CALL) == 65_000


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
@pytest.mark.parametrize("lie", [0, 10**30])
def test_balance(three_nodes: Three, liar: int, lie: int) -> None:
    """One node cannot make the wallet look empty or full."""
    honest = [Result(hex(10**18)), Result(hex(10**18 + 1))]
    _script(three_nodes, "eth_getBalance", honest, Result(hex(lie)), liar)
    word = "0x" + lie.to_bytes(32, "big").hex()
    held = [Result("0x" + (7).to_bytes(32, "big").hex())] * 2
    _script(three_nodes, "eth_call", held, Result(word), liar)
    chain = client(*three_nodes)

    assert chain.balance(CALL.to) in {10**18, 10**18 + 1}
    assert int.from_bytes(chain.call(CALL), "big") == 7


@positions
def test_hidden_contract(three_nodes: Three, liar: int) -> None:
    """One node cannot make a token look like an account without code."""
    honest = [Result("0x60"), Result("0x60")]
    _script(three_nodes, "eth_getCode", honest, Result("0x"), liar)

    assert client(*three_nodes).code(CALL.to) == b"\x60"


@positions
@pytest.mark.parametrize("lie", [0, 1_000])
def test_pending_nonce(three_nodes: Three, liar: int, lie: int) -> None:
    """One node can neither pause the wallet nor hide a pending transaction."""
    honest = [Result("0x7")] * 2
    method = "eth_getTransactionCount"
    _script(three_nodes, method, honest, Result(hex(lie)), liar)

    assert client(*three_nodes).pending_count(ADDRESS) == 7


@positions
@pytest.mark.parametrize(
    "lie", ["insufficient funds", "transaction underpriced", "nonce too low"]
)
def test_invented_rejection(three_nodes: Three, liar: int, lie: str) -> None:
    """One node cannot reject what another one accepts."""
    honest = [Result(HASH)] * 2
    _script(three_nodes, "eth_sendRawTransaction", honest, Error(-32000, lie), liar)

    broadcast(client(*three_nodes), RAW)


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
