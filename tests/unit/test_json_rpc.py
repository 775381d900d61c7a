"""The JSON-RPC client against nodes that fail, lie, stall and disagree."""

import gzip
import json
import logging
import os
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from pydantic import SecretStr

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
)
from signer.ports import Call, Fees
from tests.fixtures.chain import DevChain
from tests.fixtures.fake_node import (
    Body,
    Delay,
    Drip,
    Drop,
    Error,
    FakeNode,
    Forward,
    Reply,
    Result,
)


RAW = b"\x02signed bytes"
HASH = "0x" + keccak(RAW).hex()
ADDRESS = "0x00000000000000000000000000000000DeaDBeef"
CALL = Call(ADDRESS, ADDRESS, b"\x01\x02\x03\x04")
BLOCK = {"number": "0x10", "hash": "0x" + "AB" * 32, "baseFeePerGas": "0x64"}
RECEIPT = {
    "transactionHash": HASH,
    "blockHash": "0x" + "ab" * 32,
    "blockNumber": "0x10",
    "status": "0x1",
    "logs": [],
}
CANARY = "c4n4ry"

METHODS: dict[str, tuple[str, Callable[[JSONRPCChain], object]]] = {
    "chain_id": ("eth_chainId", lambda chain: chain.chain_id()),
    "has_code": ("eth_getCode", lambda chain: chain.has_code(ADDRESS)),
    "balance": ("eth_getBalance", lambda chain: chain.balance(ADDRESS)),
    "call": ("eth_call", lambda chain: chain.call(CALL)),
    "estimate_gas": ("eth_estimateGas", lambda chain: chain.estimate_gas(CALL)),
    "transaction_count": (
        "eth_getTransactionCount",
        lambda chain: chain.transaction_count(ADDRESS),
    ),
    "fees": ("eth_getBlockByNumber", lambda chain: chain.fees()),
    "broadcast": ("eth_sendRawTransaction", lambda chain: chain.broadcast(RAW)),
    "receipt": ("eth_getTransactionReceipt", lambda chain: chain.receipt(HASH)),
    "latest_block": ("eth_getBlockByNumber", lambda chain: chain.latest_block()),
    "block": ("eth_getBlockByNumber", lambda chain: chain.block(16)),
}

every_method = pytest.mark.parametrize("name", METHODS)


def client(*nodes: FakeNode, timeout: float = 5.0) -> JSONRPCChain:
    """Return a client of *nodes*."""
    return JSONRPCChain([node.url for node in nodes], timeout)


@pytest.fixture
def other_node() -> Iterator[FakeNode]:
    """A second fake node."""
    with FakeNode() as node:
        yield node
    assert node.violations == []


NO_ANSWERS: dict[str, Reply] = {
    "http-429": Body(b"slow down", status=429),
    "http-500": Body(b"", status=500),
    "http-502": Body(b"<html>bad gateway</html>", status=502),
    "http-504": Body(b"", status=504),
    "error-with-503": Error(-32000, "already known", status=503),
    "http-404": Body(b"<html>not found</html>", status=404),
    "redirect": Body(b"", status=302, headers={"Location": "/elsewhere"}),
    "text": Body(b"not JSON"),
    "list": Body(b"[]"),
    "empty-object": Body(b"{}"),
    "deep": Body(b"[" * 100_000),
    "endless-number": Body(b'{"jsonrpc": "2.0", "id": ' + b"9" * 5000 + b"}"),
    "other-id": Result("0x1", id=999_999),
    "id-as-text": Result("0x1", id="1"),
    "id-as-list": Result("0x1", id=[1]),
    "error-for-other-id": Body(b'{"id": 99, "error": {"message": "already known"}}'),
    "result-with-203": Result("0x1", status=203),
    "object": Result({"surprise": []}),
    "lists": Result([[]]),
    "no-hex": Result("0xzz"),
    "fraction": Result(7.5),
    "negative": Result(-1),
    "boolean": Result(True),
    "hung-up": Drop(),
    "reset": Drop(reset=True),
    "internal-error": Error(-32603, "Internal error"),
    "limit": Error(-32005, "limit exceeded"),
}


@pytest.mark.parametrize("fault", NO_ANSWERS.values(), ids=NO_ANSWERS)
@every_method
def test_an_answer_that_is_none_is_unavailability(
    fake_node: FakeNode, name: str, fault: Reply
) -> None:
    """What is no answer to the question says that the outcome is unknown."""
    endpoint, ask = METHODS[name]
    fake_node.script(endpoint, fault)

    with pytest.raises(ChainUnavailableError) as caught:
        ask(client(fake_node))

    assert caught.value.retryable


@every_method
def test_what_a_node_does_not_serve_is_not_retried(
    fake_node: FakeNode, name: str
) -> None:
    """ "Method not found" is no passing trouble."""
    endpoint, ask = METHODS[name]
    fake_node.script(endpoint, Error(-32601, "Method not found"))

    with pytest.raises(ChainError) as caught:
        ask(client(fake_node))

    assert not caught.value.retryable


def test_errors_that_come_with_a_client_error_status_are_understood(
    fake_node: FakeNode,
) -> None:
    """Gateways send JSON-RPC errors with HTTP 4xx: the error counts."""
    fake_node.script("eth_call", Error(3, "execution reverted: no", status=400))

    with pytest.raises(ExecutionRevertedError, match="no"):
        client(fake_node).call(CALL)


def test_silence_ends_at_the_timeout(fake_node: FakeNode) -> None:
    """A node that does not answer is given up in time, and not asked again."""
    fake_node.script("eth_chainId", Delay(1.5, Result("0x1")))
    started = time.monotonic()

    with pytest.raises(ChainUnavailableError, match="in time"):
        client(fake_node, timeout=0.3).chain_id()

    assert time.monotonic() - started < 1
    assert len(fake_node.requests) == 1


def test_a_trickle_ends_at_the_timeout(fake_node: FakeNode) -> None:
    """A node that sends byte after byte cannot hold the caller for ever."""
    fake_node.script("eth_chainId", Drip(200, 0.05))
    started = time.monotonic()

    with pytest.raises(ChainUnavailableError, match="in time"):
        client(fake_node, timeout=0.3).chain_id()

    assert time.monotonic() - started < 1


def test_an_answer_that_would_fill_the_memory_is_refused(fake_node: FakeNode) -> None:
    """A small answer that unpacks to a large one is cut off."""
    bomb = gzip.compress(bytes(32 * 1024 * 1024))
    fake_node.script("eth_chainId", Body(bomb, headers={"Content-Encoding": "gzip"}))

    with pytest.raises(ChainUnavailableError, match="connection"):
        client(fake_node).chain_id()


def test_a_compressed_answer_is_read(fake_node: FakeNode) -> None:
    """Nodes may compress."""
    answer = gzip.compress(json.dumps({"id": 1, "result": "0x5"}).encode())
    fake_node.script("eth_chainId", Body(answer, headers={"Content-Encoding": "gzip"}))

    assert client(fake_node).chain_id() == 5


def test_a_torn_answer_is_none(fake_node: FakeNode) -> None:
    """Fewer bytes than announced are no answer."""
    fake_node.script(
        "eth_chainId", Body(b'{"jsonrpc":"2.0","id":1,"result":"0x1"}', length=100)
    )

    with pytest.raises(ChainUnavailableError):
        client(fake_node).chain_id()


def test_nobody_listens() -> None:
    """A refused connection is unavailability."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        with pytest.raises(ChainUnavailableError, match="connection"):
            JSONRPCChain([url], 1).chain_id()


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_broke_is_tried_once_more(
    fake_node: FakeNode, reset: bool
) -> None:
    """A connection that the node closed meanwhile costs no answer."""
    fake_node.script("eth_chainId", Drop(reset=reset), Result("0x1"))

    assert client(fake_node).chain_id() == 1


def test_a_connection_is_tried_only_once_more(fake_node: FakeNode) -> None:
    """Two broken connections in a row are enough."""
    fake_node.script("eth_chainId", Drop())

    with pytest.raises(ChainUnavailableError):
        client(fake_node).chain_id()

    assert len(fake_node.requests) == 2


def test_nothing_is_connected_before_the_first_call(fake_node: FakeNode) -> None:
    """Making a client asks no node anything."""
    client(fake_node)

    assert fake_node.requests == []


def test_a_thread_keeps_its_connection(fake_node: FakeNode) -> None:
    """One thread's calls share a connection; another thread has its own."""
    fake_node.script("eth_chainId", Result("0x1"))
    chain = client(fake_node)

    chain.chain_id()
    chain.chain_id()
    thread = threading.Thread(target=chain.chain_id)
    thread.start()
    thread.join()

    first, second, third = (request.client for request in fake_node.requests)
    assert first == second != third


def test_a_forked_process_connects_anew(fake_node: FakeNode) -> None:
    """After a fork, parent and child do not speak through one socket (K16)."""
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

    parents, childs, parents_again = (request.client for request in fake_node.requests)
    assert status == 0
    assert parents == parents_again != childs


def test_cookies_are_not_kept(fake_node: FakeNode) -> None:
    """No state of a gateway follows the client from call to call."""
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
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    """A URL that cannot work is a mistake in the configuration, told without it."""
    with pytest.raises(ConfigurationError) as caught:
        JSONRPCChain(["http://127.0.0.1:1", url], 5)

    assert str(caught.value) == (
        "networks-misconfigured: RPC URL 2 is not http or https"
    )


def test_a_network_without_urls_is_refused() -> None:
    """There must be somebody to ask."""
    with pytest.raises(ConfigurationError, match="networks-misconfigured"):
        JSONRPCChain([], 5)


@every_method
def test_reads_go_on_to_the_next_node(
    fake_node: FakeNode, other_node: FakeNode, name: str
) -> None:
    """When the first node has no answer, the second one's counts."""
    endpoint, ask = METHODS[name]
    fake_node.script(endpoint, Body(status=502))
    for method, answer in GOOD.items():
        other_node.script(method, Result(answer))

    assert ask(client(fake_node, other_node)) == ANSWERS[name]


GOOD: dict[str, object] = {
    "eth_chainId": "0x1",
    "eth_getCode": "0x60",
    "eth_getBalance": "0x2",
    "eth_call": "0x03",
    "eth_estimateGas": "0x4",
    "eth_getTransactionCount": "0x5",
    "eth_getBlockByNumber": BLOCK,
    "eth_maxPriorityFeePerGas": "0x7",
    "eth_sendRawTransaction": HASH,
    "eth_getTransactionReceipt": None,
}
ANSWERS: dict[str, object] = {
    "chain_id": 1,
    "has_code": True,
    "balance": 2,
    "call": b"\x03",
    "estimate_gas": 4,
    "transaction_count": 5,
    "fees": Fees(base_fee=100, priority_fee=7),
    "broadcast": None,
    "receipt": None,
    "latest_block": None,
    "block": None,
}


def test_a_revert_is_an_answer(fake_node: FakeNode, other_node: FakeNode) -> None:
    """What the contract refuses on one node is not asked on another."""
    fake_node.script("eth_estimateGas", Error(3, "execution reverted", "0x75e91ce7"))

    with pytest.raises(ExecutionRevertedError, match="custom error 0x75e91ce7"):
        client(fake_node, other_node).estimate_gas(CALL)

    assert other_node.requests == []


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
    assert _mined(chain, raw)
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

    assert _mined(chain, raw)
    assert chain.transaction_count(account.address) == 1


def test_a_contract_cannot_make_us_fetch_urls(fake_node: FakeNode) -> None:
    """An OffchainLookup (EIP-3668) is a revert like any other, and not followed."""
    lookup = "0x556f1830" + "00" * 160
    fake_node.script("eth_call", Error(3, "execution reverted", lookup))

    with pytest.raises(ExecutionRevertedError, match="custom error 0x556f1830"):
        client(fake_node).call(CALL)

    assert len(fake_node.requests) == 1


def test_blocks_of_proof_of_authority_chains_are_read(fake_node: FakeNode) -> None:
    """Extra data that is longer than Ethereum allows does not matter to us."""
    block = BLOCK | {"extraData": "0x" + "00" * 97}
    fake_node.script("eth_getBlockByNumber", Result(block))

    assert client(fake_node).latest_block().number == 16


def test_hashes_are_written_in_lower_case(fake_node: FakeNode) -> None:
    """However a node writes a hash, we write it in lower case."""
    fake_node.script("eth_getBlockByNumber", Result(BLOCK))

    assert client(fake_node).latest_block().hash == "0x" + "ab" * 32


def test_a_chain_without_base_fee_is_told(fake_node: FakeNode) -> None:
    """A chain without EIP-1559 is refused in clear words, and not retried."""
    fake_node.script(
        "eth_getBlockByNumber", Result({"number": "0x1", "hash": "0x" + "00" * 32})
    )

    with pytest.raises(ChainError, match="EIP-1559") as caught:
        client(fake_node).fees()

    assert not caught.value.retryable


def test_a_base_fee_of_nothing_is_one(fake_node: FakeNode) -> None:
    """Some chains with EIP-1559 have a base fee of zero."""
    fake_node.script("eth_getBlockByNumber", Result(BLOCK | {"baseFeePerGas": "0x0"}))
    fake_node.script("eth_maxPriorityFeePerGas", Result("0x1"))

    assert client(fake_node).fees() == Fees(base_fee=0, priority_fee=1)


@pytest.mark.parametrize(
    "reply", [Result(None), Error(-32000, "header not found")], ids=["null", "error"]
)
def test_a_missing_block_is_none(fake_node: FakeNode, reply: Reply) -> None:
    """A block that the node does not have is None, in both ways to say so."""
    fake_node.script("eth_getBlockByNumber", reply)

    assert client(fake_node).block(16) is None


def test_another_block_is_not_believed(fake_node: FakeNode) -> None:
    """The block that was asked for must come."""
    fake_node.script("eth_getBlockByNumber", Result(BLOCK))

    with pytest.raises(ChainUnavailableError, match="no sense"):
        client(fake_node).block(17)


@pytest.mark.parametrize(
    "reply",
    [Result(None), Result(RECEIPT | {"blockHash": None})],
    ids=["null", "pending"],
)
def test_no_receipt_yet(fake_node: FakeNode, reply: Reply) -> None:
    """No receipt, and the receipt of something pending, are None."""
    fake_node.script("eth_getTransactionReceipt", reply)

    assert client(fake_node).receipt(HASH) is None


def test_an_index_in_progress_is_not_a_missing_receipt(fake_node: FakeNode) -> None:
    """A node that still builds its index has not looked."""
    fake_node.script(
        "eth_getTransactionReceipt",
        Error(-32000, "transaction indexing is in progress"),
    )

    with pytest.raises(ChainUnavailableError):
        client(fake_node).receipt(HASH)


@pytest.mark.parametrize(
    "change",
    [
        {"transactionHash": "0x" + "22" * 32},
        {"status": "0x2"},
        {"status": None},
        {"blockNumber": None},
        {"blockHash": "0xab"},
        {"logs": None},
        {"logs": [{"address": ADDRESS, "topics": [], "data": 5}]},
    ],
    ids=repr,
)
def test_a_receipt_that_is_none_is_not_believed(
    fake_node: FakeNode, change: dict[str, Any]
) -> None:
    """A receipt of something else, or without its parts, is no answer."""
    fake_node.script("eth_getTransactionReceipt", Result(RECEIPT | change))

    with pytest.raises(ChainUnavailableError, match="no sense"):
        client(fake_node).receipt(HASH)


LEAKS: dict[str, Reply] = {
    "status": Body(b"c4n4ry", status=429),
    "text": Body(b"c4n4ry"),
    "redirect": Body(status=302, headers={"Location": "http://127.0.0.1:1/c4n4ry"}),
    "result": Result("c4n4ry"),
    "object": Result({"c4n4ry": "c4n4ry"}),
    "refusal": Error(-32000, "c4n4ry"),
    "bad-params": Error(-32602, "c4n4ry"),
    "strange-error": Error("c4n4ry", "c4n4ry", "c4n4ry"),
    "revert": Error(3, "c4n4ry", "c4n4ry"),
    "silence": Delay(0.5, Drop()),
    "trickle": Drip(5, 0.1),
    "hung-up": Drop(),
    "reset": Drop(reset=True),
}


@pytest.mark.parametrize("fault", LEAKS.values(), ids=LEAKS)
@every_method
def test_no_secret_leaves_in_an_error_or_a_log(
    fake_node: FakeNode, caplog: pytest.LogCaptureFixture, name: str, fault: Reply
) -> None:
    """URLs and a node's own words are in no message, traceback or log (G19)."""
    caplog.set_level(logging.DEBUG)
    endpoint, ask = METHODS[name]
    fake_node.script(endpoint, fault)
    url = fake_node.url.replace("http://", f"http://user:{CANARY}@") + f"/{CANARY}"
    chain = JSONRPCChain([url], 0.3)

    with pytest.raises(ChainError) as caught:
        ask(chain)

    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in "".join(traceback.format_exception_only(error))
        error = error.__context__
    assert CANARY not in caplog.text
    assert CANARY not in repr(chain)


def _payment(chain: DevChain) -> tuple[LocalAccount, bytes]:
    account: LocalAccount = Account.create()
    coin.fund(chain.url, account.address)
    transaction: dict[str, Any] = {
        "type": 2,
        "chainId": CHAIN_ID,
        "nonce": 0,
        "to": ADDRESS,
        "value": 1,
        "gas": 21_000,
        "maxFeePerGas": 20 * 10**9,
        "maxPriorityFeePerGas": 10**9,
    }
    return account, bytes(account.sign_transaction(transaction).raw_transaction)


def _mined(chain: JSONRPCChain, raw: bytes) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        receipt = chain.receipt("0x" + keccak(raw).hex())
        if receipt is not None:
            return receipt.succeeded
        time.sleep(0.01)
    return False
