"""A node before a chain: its newest block may stay the same, or it is down."""

import json
import urllib.request
from typing import Any

from tests.support.servers import LocalHandler, LocalServer


class LaggingNode(LocalServer):
    """
    Forwards JSON-RPC to *chain*.

    While ``newest`` is a height, it answers as if no later block existed.  While it
    ``is_down``, it answers nothing.
    """

    def __init__(self, chain: str = "") -> None:
        super().__init__(_Handler)
        self.chain = chain
        self.newest: int | None = None
        self.is_down = False
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer(self, body: bytes) -> bytes:
        """Return the chain's answer to *body*, as old as it must be."""
        newest = self.newest
        asked = json.loads(body)
        if newest is not None:
            for each in asked if isinstance(asked, list) else [asked]:
                each["params"] = [
                    hex(newest) if param in ("latest", "pending") else param
                    for param in each.get("params", [])
                ]
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            self.chain, json.dumps(asked).encode(), headers
        )
        with self._opener.open(request, timeout=10) as response:
            answered = json.load(response)
        if newest is not None:
            for each in answered if isinstance(answered, list) else [answered]:
                _forget_later(each, newest, asked)
        return json.dumps(answered).encode()


def _forget_later(answer: dict[str, Any], newest: int, asked: Any) -> None:
    """Remove what is in a block after *newest* from *answer*."""
    calls = asked if isinstance(asked, list) else [asked]
    methods = {each["id"]: each["method"] for each in calls}
    result = answer.get("result")
    if methods.get(answer.get("id")) == "eth_blockNumber":
        answer["result"] = hex(newest)
    elif (
        isinstance(result, dict) and int(result.get("blockNumber") or "0", 16) > newest
    ):
        answer["result"] = None


class _Handler(LocalHandler):
    server: LaggingNode

    def respond(self) -> None:
        """Answer a request or a batch."""
        body = self.read_body()
        if self.server.is_down:
            self.send_error(503)
        else:
            self.answer(200, self.server.answer(body))
