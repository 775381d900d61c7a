"""The JSON-RPC client against a node that fails, lies and stalls."""

import gzip
import json
import os
import socket
import threading
import time
import warnings

import pytest
from pydantic import SecretStr

from backends.json_rpc import JSONRPCChain
from signer.errors import (
    ChainError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
)
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drip, Drop, Error, Reply, Result
from tests.support.rpc import (
    CALL,
    HASH,
    METHODS,
    RAW,
    client,
    every_method,
    script_first,
)


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
    "hung-up": Drop(),
    "reset": Drop(reset=True),
    "internal-error": Error(-32603, "Internal error"),
    "limit": Error(-32005, "limit exceeded"),
}
NONSENSE: dict[str, Reply] = {
    "object": Result({"surprise": []}),
    "lists": Result([[]]),
    "no-hex": Result("0xzz"),
    "fraction": Result(7.5),
    "negative": Result(-1),
    "boolean": Result(True),
}


@pytest.mark.parametrize("fault", NO_ANSWERS.values(), ids=NO_ANSWERS)
@pytest.mark.parametrize("name", ["chain_id", "broadcast"])
def test_an_answer_that_is_none_is_unavailability(
    fake_node: FakeNode, name: str, fault: Reply
) -> None:
    """What is no answer to the question says that the outcome is unknown."""
    _, ask = METHODS[name]
    script_first(fake_node, name, fault)

    with pytest.raises(ChainUnavailableError) as caught:
        ask(client(fake_node))

    assert caught.value.retryable


@pytest.mark.parametrize("fault", NONSENSE.values(), ids=NONSENSE)
@every_method
def test_an_answer_of_another_shape_is_unavailability(
    fake_node: FakeNode, name: str, fault: Reply
) -> None:
    """A result that cannot be one is not believed, whatever was asked."""
    _, ask = METHODS[name]
    script_first(fake_node, name, fault)

    with pytest.raises(ChainUnavailableError, match="malformed"):
        ask(client(fake_node))


@every_method
def test_what_a_node_does_not_serve_is_not_retried(
    fake_node: FakeNode, name: str
) -> None:
    """ "Method not found" is no passing trouble."""
    _, ask = METHODS[name]
    script_first(fake_node, name, Error(-32601, "Method not found"))

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


def test_redirects_are_not_followed(fake_node: FakeNode) -> None:
    """Signed bytes go to the configured node and nowhere else."""
    fake_node.script(
        "eth_sendRawTransaction",
        Body(status=307, headers={"Location": "/elsewhere"}),
        Result(HASH),
    )

    with pytest.raises(ChainUnavailableError, match="307"):
        client(fake_node).broadcast(RAW)

    assert len(fake_node.requests) == 1


def test_silence_ends_at_the_timeout(fake_node: FakeNode) -> None:
    """A node that does not answer is given up in time, and not asked again."""
    fake_node.script("eth_chainId", Delay(1.5, Result("0x1")))
    started = time.monotonic()

    with pytest.raises(ChainUnavailableError, match="in time"):
        client(fake_node, timeout=0.3).chain_id()

    assert time.monotonic() - started < 1.4
    assert len(fake_node.requests) == 1


def test_a_trickle_ends_at_the_timeout(fake_node: FakeNode) -> None:
    """A node that sends byte after byte cannot hold the caller for ever."""
    fake_node.script("eth_chainId", Drip(200, 0.05))
    started = time.monotonic()

    with pytest.raises(ChainUnavailableError, match="in time"):
        client(fake_node, timeout=0.3).chain_id()

    assert time.monotonic() - started < 5


def test_an_answer_that_would_fill_the_memory_is_refused(fake_node: FakeNode) -> None:
    """A small answer that unpacks to a large one is cut off."""
    bomb = gzip.compress(bytes(32 * 1024 * 1024))
    fake_node.script("eth_chainId", Body(bomb, headers={"Content-Encoding": "gzip"}))

    with pytest.raises(ChainUnavailableError, match="too large"):
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
