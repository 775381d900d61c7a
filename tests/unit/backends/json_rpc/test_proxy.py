"""The reads of clients: the first node that answers, as it answers."""

import pytest

from backends.json_rpc.client import JSONRPCProxy
from signer.errors import (
    ChainUnavailableError,
    InvalidInputError,
    ResultTooLargeError,
    RevertedCallError,
)
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Drop, Error, Result


REASON = "0x08c379a0" + f"{32:064x}{4:064x}" + b"full".hex().ljust(64, "0")


def _proxy(*nodes: FakeNode) -> JSONRPCProxy:
    return JSONRPCProxy([node.url for node in nodes], timeout=2)


@pytest.mark.parametrize("result", ["0x1", None, {"a": [1.5]}, [], True])
def test_passes_any_result_on(fake_node: FakeNode, result: object) -> None:
    fake_node.script("eth_feeHistory", Result(result))

    assert (
        _proxy(fake_node).forward("eth_feeHistory", ["0xa", "latest", [20.0]]) == result
    )
    assert fake_node.requests[-1].params == ["0xa", "latest", [20.0]]


def test_a_revert_has_the_data_of_the_contract(fake_node: FakeNode) -> None:
    """Clients decode custom errors from it."""
    fake_node.script("eth_call", Error(3, "execution reverted", REASON), Error(3, "x"))
    proxy = _proxy(fake_node)

    with pytest.raises(RevertedCallError, match="full") as caught:
        proxy.forward("eth_call", [{}])
    assert caught.value.data == bytes.fromhex(REASON[2:])
    with pytest.raises(RevertedCallError) as caught:
        proxy.forward("eth_call", [{}])
    assert caught.value.data is None


def test_bad_parameters_are_the_clients_mistake(fake_node: FakeNode) -> None:
    fake_node.script("eth_call", Error(-32602, "secret"))

    with pytest.raises(InvalidInputError, match="eth_call") as caught:
        _proxy(fake_node).forward("eth_call", [7])
    assert "secret" not in str(caught.value)


def test_a_response_that_is_too_large_is_not_read(
    fake_node: FakeNode, other_node: FakeNode
) -> None:
    """The client asked for it, so no other node is asked, and none is to blame."""
    fake_node.script("eth_getLogs", Result("0x" + "00" * JSONRPCProxy.max_bytes))
    proxy = _proxy(fake_node, other_node)

    with pytest.raises(ResultTooLargeError):
        proxy.forward("eth_getLogs", [{}])
    fake_node.script("eth_getLogs", Result([]))
    assert proxy.forward("eth_getLogs", [{}]) == []


def test_no_node_answers(fake_node: FakeNode) -> None:
    fake_node.script("eth_call", Drop(), Drop(), Error(-32000, "busy"))
    proxy = _proxy(fake_node)

    for _ in range(2):
        with pytest.raises(ChainUnavailableError):
            proxy.forward("eth_call", [{}])
