"""URLs hold API keys, and nodes send any text: neither leaves the client."""

import logging
import traceback

import pytest

from backends.json_rpc import JSONRPCChain
from signer.errors import ChainError
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.replies import Body, Delay, Drip, Drop, Error, Reply, Result
from tests.support.rpc import METHODS, script_first


CANARY = "c4n4ry"

REPLIES: dict[str, Reply] = {
    "result": Result("c4n4ry"),
    "object": Result({"c4n4ry": "c4n4ry"}),
    "refusal": Error(-32000, "c4n4ry"),
    "bad-params": Error(-32602, "c4n4ry"),
    "strange-error": Error("c4n4ry", "c4n4ry", "c4n4ry"),
    "revert": Error(3, "c4n4ry", "c4n4ry"),
    "reason": Error(3, "execution reverted: c4n4ry"),
}
FAILURES: dict[str, Reply] = {
    "status": Body(b"c4n4ry", status=429),
    "text": Body(b"c4n4ry"),
    "redirect": Body(status=302, headers={"Location": "http://127.0.0.1:1/c4n4ry"}),
    "no-response": Delay(0.2, Drop()),
    "trickle": Drip(5, 0.06),
    "hung-up": Drop(),
    "reset": Drop(reset=True),
}


@pytest.mark.parametrize("name", METHODS)
def test_no_secret_is_in_an_error_or_a_log(
    fake_node: FakeNode, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """URLs and messages of nodes are in no error, traceback or log (G19)."""
    caplog.set_level(logging.DEBUG)
    _, ask = METHODS[name]
    url = fake_node.url.replace("http://", f"http://user:{CANARY}@") + f"/{CANARY}"
    faults = REPLIES | FAILURES if name in {"chain_id", "broadcast"} else REPLIES
    for fault in faults.values():
        fake_node.forget()
        script_first(fake_node, name, fault)
        chain = JSONRPCChain([url], 0.15)
        with pytest.raises(ChainError) as caught:
            ask(chain)

        error: BaseException | None = caught.value
        while error is not None:
            assert CANARY not in "".join(traceback.format_exception_only(error))
            error = error.__context__
        assert CANARY not in caplog.text
        assert CANARY not in repr(chain)
