"""The JSON-RPC client between nodes that disagree, and a node that loses replies."""

from functools import partial

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from dev import stablecoin as coin
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
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
    client,
    every_method,
    script_first,
)
from tests.support.waiting import eventually


@every_method
def test_reads_go_on_to_the_next_node(
    fake_node: FakeNode, other_node: FakeNode, name: str
) -> None:
    """When the first node has no answer, the second one's counts."""
    _, ask = METHODS[name]
    script_first(fake_node, name, Body(status=502))
    for method, answer in RESULTS.items():
        other_node.script(method, Result(answer))

    assert ask(client(fake_node, other_node)) == ANSWERS[name]


def test_a_revert_counts_when_nobody_says_otherwise(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """A node that is behind does not refuse what another one would do."""
    fake_node.script("eth_estimateGas", Error(3, "execution reverted", "0x75e91ce7"))
    other_node.script("eth_estimateGas", Result("0x5"), Body(status=502))
    chain = client(fake_node, other_node)

    assert chain.estimate_gas(CALL) == 5

    with pytest.raises(ExecutionRevertedError, match="custom error 0x75e91ce7"):
        chain.estimate_gas(CALL)


def test_nodes_of_different_chains_are_told(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """Nodes that disagree about the chain id are a mistake that no retry heals."""
    fake_node.script("eth_chainId", Result("0x1"))
    other_node.script("eth_chainId", Result("0x2"))

    with pytest.raises(ChainError, match=r"different chains: \[1, 2\]") as caught:
        client(fake_node, other_node).chain_id()

    assert not caught.value.retryable


def test_the_chain_id_is_asked_of_every_node(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """A node that is down does not hide what the others say."""
    fake_node.script("eth_chainId", Body(status=503))
    other_node.script("eth_chainId", Result("0x2"))

    assert client(fake_node, other_node).chain_id() == 2


@pytest.mark.parametrize(
    "trouble",
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
def test_one_node_that_takes_the_bytes_suffices(
    fake_node: FakeNode, other_node: FakeNode, trouble: Reply, last: bool
) -> None:
    """A broadcast goes to all nodes and succeeds when one takes it."""
    fake_node.script("eth_sendRawTransaction", trouble)
    other_node.script("eth_sendRawTransaction", Result(HASH))
    nodes = (other_node, fake_node) if last else (fake_node, other_node)

    client(*nodes).broadcast(RAW)

    for node in nodes:
        # The first acceptance suffices; the other node hears of it in its own time.
        assert eventually(partial(node.calls, "eth_sendRawTransaction"))
        assert node.calls("eth_sendRawTransaction")[0] == ["0x" + RAW.hex()]


def test_already_known_is_success(fake_node: FakeNode) -> None:
    """Bytes that the node has already were handed over."""
    fake_node.script("eth_sendRawTransaction", Error(-32000, "already known"))

    client(fake_node).broadcast(RAW)

    assert len(fake_node.requests) == 1


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("nonce too high", "nonce too low", "nonce-too-low"),
        ("exceeds block gas limit", "insufficient funds", "insufficient-funds"),
        ("nonce too high", "transaction underpriced", "underpriced"),
    ],
)
def test_the_reason_that_knows_most_is_told(
    fake_node: FakeNode, other_node: FakeNode, first: str, second: str, reason: str
) -> None:
    """When all nodes refuse, the one that has seen more of the chain is right."""
    for messages in ((first, second), (second, first)):
        fake_node.script("eth_sendRawTransaction", Error(-32000, messages[0]))
        other_node.script("eth_sendRawTransaction", Error(-32000, messages[1]))

        with pytest.raises(BroadcastRejectedError) as caught:
            client(fake_node, other_node).broadcast(RAW)

        assert caught.value.reason == reason


@every_method
def test_trouble_that_passes_comes_before_trouble_that_stays(
    fake_node: FakeNode, other_node: FakeNode, name: str
) -> None:
    """While one node may answer later, the error says to try again."""
    _, ask = METHODS[name]
    script_first(fake_node, name, Error(-32601, "Method not found"))
    script_first(other_node, name, Body(status=503))

    with pytest.raises(ChainUnavailableError):
        ask(client(fake_node, other_node))


def test_a_refusal_is_told_though_another_node_is_silent(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """One node's reason is worth more than another's silence."""
    fake_node.script("eth_sendRawTransaction", Body(status=502))
    other_node.script("eth_sendRawTransaction", Error(-32000, "nonce too high"))

    with pytest.raises(BroadcastRejectedError) as caught:
        client(fake_node, other_node).broadcast(RAW)

    assert caught.value.reason == "nonce-too-high"


def test_a_node_that_answers_for_other_bytes_is_not_believed(
    fake_node: FakeNode,
) -> None:
    """The hash is ours to compute: another one means that nothing is known (R25)."""
    fake_node.script("eth_sendRawTransaction", Result("0x" + "11" * 32))

    with pytest.raises(ChainUnavailableError, match="another transaction"):
        client(fake_node).broadcast(RAW)


def test_a_lost_reply_pays_once(fault_proxy: FakeNode, fresh_anvil: DevChain) -> None:
    """A node that took the bytes and died before its reply has them (R7)."""
    account, raw = _payment(fresh_anvil)
    fault_proxy.script("eth_sendRawTransaction", Drop(accepted=True), Forward())
    chain = client(fault_proxy)

    refused = None
    try:
        chain.broadcast(raw)
    except BroadcastRejectedError as e:
        refused = e.reason

    # The repetition comes before the block, or after it.
    assert refused in {None, "nonce-too-low"}
    assert mined(chain, raw).succeeded
    assert len(fault_proxy.calls("eth_sendRawTransaction")) == 2
    assert chain.transaction_count(account.address) == 1


def test_a_reply_that_stays_lost_is_unknown_and_not_failed(
    fault_proxy: FakeNode, fresh_anvil: DevChain
) -> None:
    """While no reply comes the outcome is unknown, and the bytes are mined once."""
    account, raw = _payment(fresh_anvil)
    fault_proxy.script("eth_sendRawTransaction", Drop(accepted=True, reset=True))
    chain = client(fault_proxy)

    with pytest.raises(ChainUnavailableError):
        chain.broadcast(raw)

    assert mined(chain, raw).succeeded
    assert chain.transaction_count(account.address) == 1


def _payment(chain: DevChain) -> tuple[LocalAccount, bytes]:
    account: LocalAccount = Account.create()
    coin.fund(chain.url, account.address)
    return account, signed(account, value=1)
