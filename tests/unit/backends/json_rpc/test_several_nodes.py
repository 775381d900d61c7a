"""The JSON-RPC client with nodes that disagree, and with a node that loses replies."""

from functools import partial

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from dev import stablecoin as coin
from signer.errors import (
    BroadcastRejectedError,
    ChainUnavailableError,
    ExecutionRevertedError,
)
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Drop, Error, Forward, Reply, Result
from tests.support.payments import mined, signed
from tests.support.rpc import (
    ANSWERS,
    CALL,
    HASH,
    METHODS,
    RAW,
    RESULTS,
    broadcast,
    client,
    every_method,
    script_first,
)
from tests.support.waiting import eventually


@every_method
def test_a_read_continues_with_the_next_node(
    fake_node: FakeNode, other_node: FakeNode, name: str
) -> None:
    """If the first node fails, the result of the second one counts."""
    _, ask = METHODS[name]
    script_first(fake_node, name, Body(status=502))
    for method, answer in RESULTS.items():
        other_node.script(method, Result(answer))

    assert ask(client(fake_node, other_node)) == ANSWERS[name]


def test_a_revert_counts_if_no_other_node_succeeds(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    fake_node.script("eth_estimateGas", Error(3, "execution reverted", "0x75e91ce7"))
    other_node.script("eth_estimateGas", Result("0x5"), Body(status=502))
    chain = client(fake_node, other_node)

    assert chain.estimate_gas(CALL) == 5

    with pytest.raises(ExecutionRevertedError, match="custom error 0x75e91ce7"):
        chain.estimate_gas(CALL)


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(Error(-32000, "nonce too low"), id="nonce-too-low"),
        pytest.param(Error(-32000, "insufficient funds"), id="insufficient-funds"),
        pytest.param(Error(-32601, "Method not found"), id="not-served"),
        pytest.param(Result("0x" + "00" * 32), id="other-hash"),
        pytest.param(Body(status=504), id="http-504"),
        pytest.param(Drop(), id="hung-up"),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_broadcast_needs_one_acceptance(
    fake_node: FakeNode, other_node: FakeNode, failure: Reply, last: bool
) -> None:
    """A broadcast goes to all nodes and succeeds if one accepts it."""
    fake_node.script("eth_sendRawTransaction", failure)
    other_node.script("eth_sendRawTransaction", Result(HASH))
    nodes = (other_node, fake_node) if last else (fake_node, other_node)

    broadcast(client(*nodes), RAW)

    for node in nodes:
        # The other node may get its request after the call has returned.
        assert eventually(partial(node.calls, "eth_sendRawTransaction"))
        assert node.calls("eth_sendRawTransaction")[0] == ["0x" + RAW.hex()]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("nonce too high", "nonce too low", "nonce-too-low"),
        ("exceeds block gas limit", "insufficient funds", "insufficient-funds"),
        ("nonce too high", "transaction underpriced", "underpriced"),
        ("nonce too high", None, "nonce-too-high"),
    ],
)
def test_the_most_informed_refusal_counts(
    fake_node: FakeNode,
    other_node: FakeNode,
    first: str,
    second: str | None,
    reason: str,
) -> None:
    """If all nodes refuse, the one that has seen more of the chain decides."""
    refusal = Error(-32000, first)
    other = Error(-32000, second) if second else Body(status=502)
    for replies in ((refusal, other), (other, refusal)):
        fake_node.script("eth_sendRawTransaction", replies[0])
        other_node.script("eth_sendRawTransaction", replies[1])

        with pytest.raises(BroadcastRejectedError) as caught:
            broadcast(client(fake_node, other_node), RAW)

        assert caught.value.reason == reason


@every_method
def test_a_temporary_error_precedes_a_permanent_one(
    fake_node: FakeNode, other_node: FakeNode, name: str
) -> None:
    """While one node may answer later, the error is retryable."""
    _, ask = METHODS[name]
    script_first(fake_node, name, Error(-32601, "Method not found"))
    script_first(other_node, name, Body(status=503))

    with pytest.raises(ChainUnavailableError):
        ask(client(fake_node, other_node))


def test_another_hash_is_unavailability(fake_node: FakeNode) -> None:
    """The client computes the hash; another one proves nothing (R25)."""
    fake_node.script("eth_sendRawTransaction", Result("0x" + "11" * 32))

    with pytest.raises(ChainUnavailableError, match="another transaction"):
        broadcast(client(fake_node), RAW)


def test_a_lost_reply_pays_once(fault_proxy: FakeNode, fresh_anvil: DevChain) -> None:
    """A node that accepted the bytes and failed before its reply has them (R7)."""
    account, raw = _payment(fresh_anvil)
    fault_proxy.script("eth_sendRawTransaction", Drop(accepted=True), Forward())
    chain = client(fault_proxy)

    refused = None
    try:
        broadcast(chain, raw)
    except BroadcastRejectedError as e:
        refused = e.reason

    # The repetition comes before the block, or after it.
    assert refused in {None, "nonce-too-low"}
    assert mined(chain, raw).succeeded
    assert len(fault_proxy.calls("eth_sendRawTransaction")) == 2
    assert chain.transaction_count(account.address) == 1


def _payment(chain: DevChain) -> tuple[LocalAccount, bytes]:
    account: LocalAccount = Account.create()
    coin.fund(chain.url, account.address)
    return account, signed(account, value=1)
