"""The JSON-RPC client with a node that fails, stalls, or sends what it refuses."""

import contextlib
import gzip
import json
import os
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from backends.json_rpc import JSONRPCChain, parsing
from backends.json_rpc.client import JSONRPCProxy
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    InvalidInputError,
    MethodNotServedError,
    ResultTooLargeError,
    RevertedCallError,
)
from signer.ports.chain import Fees
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drip, Drop, Error, Reply, Result
from tests.support.rpc import (
    ADDRESS,
    BLOCK,
    CALL,
    HASH,
    METHODS,
    RAW,
    RECEIPT,
    broadcast,
    client,
    every_method,
    receipt_of,
    script_first,
)
from tests.support.waiting import eventually


FAILURES: dict[str, Reply] = {
    "http-429": Body(b"slow down", status=429),
    "http-500": Body(b"", status=500),
    "http-502": Body(b"<html>bad gateway</html>", status=502),
    "http-504": Body(b"", status=504),
    "error-with-503": Error(-32000, "already known", status=503),
    "http-404": Body(b"<html>not found</html>", status=404),
    "text": Body(b"not JSON"),
    "truncated": Body(b'{"jsonrpc":"2.0","id":1,"result":"0x1"}', length=100),
    "list": Body(b"[]"),
    "empty-object": Body(b"{}"),
    "deep": Body(b"[" * 100_000),
    "endless-number": Body(b'{"jsonrpc": "2.0", "id": ' + b"9" * 5000 + b"}"),
    "other-id": Result("0x1", id=999_999),
    "id-as-text": Result("0x1", id="1"),
    "id-as-list": Result("0x1", id=[1]),
    "error-for-other-id": Body(b'{"id": 99, "error": {"message": "already known"}}'),
    "result-with-203": Result("0x1", status=203),
    "hung-up": Drop(),
    "reset": Drop(reset=True),
    "internal-error": Error(-32603, "Internal error"),
    "limit": Error(-32005, "limit exceeded"),
}
MALFORMED: dict[str, Reply] = {
    "object": Result({"surprise": []}),
    "lists": Result([[]]),
    "no-hex": Result("0xzz"),
    "fraction": Result(7.5),
    "negative": Result(-1),
    "boolean": Result(True),
}


@pytest.mark.parametrize("name", ["chain_id", "broadcast"])
def test_failed_exchange_is_unavailability(fake_node: FakeNode, name: str) -> None:
    """If there is no valid response, the outcome is unknown and retryable."""
    _, ask = METHODS[name]
    for what, fault in FAILURES.items():
        fake_node.forget()
        script_first(fake_node, name, fault)
        with pytest.raises(ChainUnavailableError) as caught:
            ask(client(fake_node))
        assert caught.value.retryable, what


@every_method
def test_malformed_result_is_unavailability(fake_node: FakeNode, name: str) -> None:
    _, ask = METHODS[name]
    for fault in MALFORMED.values():
        script_first(fake_node, name, fault)
        with pytest.raises(ChainUnavailableError, match="malformed"):
            ask(client(fake_node))


@every_method
def test_method_not_found_is_not_retryable(fake_node: FakeNode, name: str) -> None:
    _, ask = METHODS[name]
    script_first(fake_node, name, Error(-32601, "Method not found"))

    with pytest.raises(ChainError) as caught:
        ask(client(fake_node))

    assert not caught.value.retryable


def test_parses_errors_with_a_4xx_status(fake_node: FakeNode) -> None:
    """Gateways send JSON-RPC errors with HTTP 4xx: the error object counts."""
    fake_node.script("eth_call", Error(3, "execution reverted: no", status=400))

    with pytest.raises(ExecutionRevertedError, match="no"):
        client(fake_node).call(CALL)


def test_redirects_are_not_followed(fake_node: FakeNode) -> None:
    """Signed bytes go to the configured node and nowhere else."""
    fake_node.script(
        "eth_sendRawTransaction",
        Body(status=307, headers={"Location": "/elsewhere"}),
        Result(HASH),
    )

    with pytest.raises(ChainUnavailableError, match="307"):
        broadcast(client(fake_node), RAW)

    assert len(fake_node.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [Delay(60, Result("0x1")), Drip(1200, 0.05)],
    ids=["no-response", "byte-by-byte"],
)
def test_timeout_ends_a_request(fake_node: FakeNode, reply: Reply) -> None:
    """The node is not asked again."""
    fake_node.script("eth_chainId", reply)
    started = time.monotonic()

    with pytest.raises(ChainUnavailableError, match="in time"):
        client(fake_node, timeout=0.3).chain_id()

    assert time.monotonic() - started < 20
    assert len(fake_node.requests) == 1


def test_requests_fail_at_once_after_a_timeout(fake_node: FakeNode) -> None:
    """One a second tries, until the node answers."""
    fake_node.script("eth_chainId", Delay(60, Drop()), Result("0x1"))
    chain = client(fake_node, timeout=0.3)
    with pytest.raises(ChainUnavailableError, match="in time"):
        chain.chain_id()
    with pytest.raises(ChainUnavailableError, match="a moment ago"):
        chain.chain_id()
    requests_before_the_pause = len(fake_node.requests)

    assert requests_before_the_pause == 1
    assert eventually(lambda: _chain_id(chain) == 1)
    assert chain.chain_id() == 1


def _chain_id(chain: JSONRPCChain) -> int | None:
    with contextlib.suppress(ChainUnavailableError):
        return chain.chain_id()
    return None


def test_refuses_a_decompression_bomb(fake_node: FakeNode) -> None:
    """A small response that decompresses to a large one is refused."""
    bomb = gzip.compress(bytes(32 * 1024 * 1024))
    fake_node.script("eth_chainId", Body(bomb, headers={"Content-Encoding": "gzip"}))

    with pytest.raises(ChainUnavailableError, match="too large"):
        client(fake_node).chain_id()


def test_accepts_a_compressed_response(fake_node: FakeNode) -> None:
    answer = gzip.compress(json.dumps({"id": 1, "result": "0x5"}).encode())
    fake_node.script("eth_chainId", Body(answer, headers={"Content-Encoding": "gzip"}))

    assert client(fake_node).chain_id() == 5


@pytest.mark.parametrize("reset", [False, True])
def test_retries_once_after_a_broken_connection(
    fake_node: FakeNode, reset: bool
) -> None:
    """A node may close an idle connection at any time."""
    fake_node.script("eth_chainId", Drop(reset=reset), Result("0x1"))

    assert client(fake_node).chain_id() == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_node_is_asked_again_after_its_pause(
    fake_node: FakeNode, status: int
) -> None:
    busy = Body(status=status, headers={"Retry-After": "0"})
    fake_node.script("eth_chainId", busy, Result("0x1"))

    assert client(fake_node).chain_id() == 1


@pytest.mark.parametrize(
    "pause", ["3600", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"]
)
def test_a_long_or_unknown_pause_is_not_waited_for(
    fake_node: FakeNode, pause: str
) -> None:
    """The refund is tried again later."""
    busy = Body(status=429, headers={"Retry-After": pause})
    fake_node.script("eth_chainId", busy, Result("0x1"))

    with pytest.raises(ChainUnavailableError):
        client(fake_node).chain_id()
    assert len(fake_node.requests) == 1


def test_a_node_that_stays_busy_is_asked_twice(fake_node: FakeNode) -> None:
    fake_node.script("eth_chainId", Body(status=429, headers={"Retry-After": "0"}))

    with pytest.raises(ChainUnavailableError):
        client(fake_node).chain_id()
    assert len(fake_node.requests) == 2


def test_a_thread_keeps_its_connection(fake_node: FakeNode) -> None:
    """One thread's calls share a connection; another thread has its own."""
    fake_node.script("eth_chainId", Result("0x1"))
    chain = client(fake_node)
    assert fake_node.requests == []  # Nothing is sent before the first call.

    chain.chain_id()
    chain.chain_id()
    thread = threading.Thread(target=chain.chain_id)
    thread.start()
    thread.join()

    first, second, third = (request.client for request in fake_node.requests)
    assert first == second != third


def test_forked_process_opens_its_own_connection(fake_node: FakeNode) -> None:
    """After a fork, parent and child do not share a socket (K16)."""
    fake_node.script("eth_chainId", Result("0x1"))
    chain = client(fake_node)
    chain.chain_id()

    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; that hazard is the subject.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if chain.chain_id() == 1 else 1)
    _, status = os.waitpid(child, 0)
    chain.chain_id()

    parent, child_one, parent_again = (request.client for request in fake_node.requests)
    assert status == 0
    assert parent == parent_again != child_one


def test_cookies_are_not_kept(fake_node: FakeNode) -> None:
    """The client sends no cookie that a gateway has set."""
    answer = json.dumps({"id": 1, "result": "0x1"}).encode()
    fake_node.script(
        "eth_chainId",
        Body(answer, headers={"Set-Cookie": "a=b; Path=/"}),
        Result("0x1"),
    )
    chain = client(fake_node)

    chain.chain_id()
    chain.chain_id()

    assert "Cookie" not in fake_node.requests[1].headers


def test_credentials_in_the_url_are_used(fake_node: FakeNode) -> None:
    """A user and a password in the URL become HTTP basic authentication."""
    fake_node.script("eth_chainId", Result("0x1"))
    url = fake_node.url.replace("http://", "http://user:password@")

    JSONRPCChain([SecretStr(url + "/v1/key")], 5).chain_id()

    (request,) = fake_node.requests
    assert request.headers["Authorization"].startswith("Basic ")
    assert request.path == "/v1/key"


@pytest.mark.parametrize(
    "url", ["", "ftp://host/c4n4ry", "c4n4ry", "http://", "http://[c4n4ry"]
)
def test_refuses_a_malformed_url(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        JSONRPCChain(["http://127.0.0.1:1", url], 5)

    assert str(caught.value) == (
        "networks-misconfigured: RPC URL 2 is not http or https"
    )


def test_a_network_without_urls_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="networks-misconfigured"):
        JSONRPCChain([], 5)


def test_uses_the_proxy_of_the_environment(
    fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``HTTP_PROXY`` is honoured; the proxy resolves the host, and gets no password."""
    monkeypatch.setenv("HTTP_PROXY", fake_node.url)
    monkeypatch.setenv("http_proxy", fake_node.url)
    fake_node.script("eth_chainId", Result("0x1"))

    assert JSONRPCChain(["http://me:secret@node.invalid/v1"], 5).chain_id() == 1
    (request,) = fake_node.requests
    assert request.path == "http://node.invalid/v1"
    assert request.headers["Authorization"] == "Basic bWU6c2VjcmV0"


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("urls", [1, 3])
def test_a_proxy_of_another_scheme_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, urls: int
) -> None:
    """A start is not repeated; the error names the variable, and not the proxy."""
    monkeypatch.setenv(variable, "socks5://me:secret@127.0.0.1:9")

    with pytest.raises(ConfigurationError) as caught:
        JSONRPCChain(["http://node.invalid/v1"] * urls, 5).chain_id()

    assert not caught.value.is_transient
    assert str(caught.value) == (
        f"settings-invalid: {variable}: unsupported scheme; set it to an http:// or"
        " https:// proxy"
    )


def test_a_host_without_a_proxy_needs_no_supported_one(
    fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``NO_PROXY`` exempts the node from the unsupported proxy."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake_node.script("eth_chainId", Result("0x1"))

    assert JSONRPCChain([fake_node.url], 5).chain_id() == 1


def test_a_malformed_proxy_is_unavailability(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error points to the environment, not to the node."""
    monkeypatch.setenv("http_proxy", "http://[::1")

    with pytest.raises(ChainUnavailableError, match="the proxy or"):
        JSONRPCChain(["http://node.invalid/v1"], 5).chain_id()


def test_an_unusable_ca_bundle_is_unavailability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A path in ``REQUESTS_CA_BUNDLE`` without a file fails the request."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")

    with pytest.raises(ChainUnavailableError, match="REQUESTS_CA_BUNDLE"):
        JSONRPCChain(["https://127.0.0.1:9/"], 5).chain_id()


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


def test_a_method_that_the_node_lacks(fake_node: FakeNode) -> None:
    fake_node.script("eth_createAccessList", Error(-32601, "secret"))

    with pytest.raises(MethodNotServedError, match="eth_createAccessList") as caught:
        _proxy(fake_node).forward("eth_createAccessList", [{}])
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


_CALL = {"to": "0x" + "12" * 20, "value": "0x0", "input": "0xf00d"}
_MINED = {
    "hash": "0x" + "aa" * 32,
    "blockHash": "0x" + "bb" * 32,
    "blockNumber": "0x1",
    "from": "0x" + "34" * 20,
    "nonce": "0x2",
    "gas": "0x3",
}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (_CALL, b"\xf0\x0d"),
        ({**_CALL, "calls": None}, b"\xf0\x0d"),
        ({"calls": [_CALL]}, b"\xf0\x0d"),
        ({"calls": [_CALL, _CALL]}, None),
        ({"calls": []}, None),
    ],
)
def test_the_call_of_a_transaction(
    fields: Mapping[str, Any], found: bytes | None
) -> None:
    """Type 0x76 has a list: of ours there is one, and others match no refund."""
    mined = parsing.transaction({**_MINED, **fields}, _MINED["hash"])

    assert mined is not None
    assert (mined.to is None, mined.data) == (found is None, found or b"")


@pytest.mark.parametrize("call", [None, "0x", {}])
def test_a_malformed_call(call: object) -> None:
    with pytest.raises((ValueError, KeyError)):
        parsing.transaction({**_MINED, "calls": [call]}, _MINED["hash"])
