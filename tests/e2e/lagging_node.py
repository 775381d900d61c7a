"""A node before a chain: its newest block may stay the same, or it is down."""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class LaggingNode(ThreadingHTTPServer):
    """
    Forwards JSON-RPC to *chain*.

    While ``newest`` is a height, it answers as if no later block existed.  While it
    ``is_down``, it answers nothing.
    """

    daemon_threads = True

    def __init__(self, chain: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.chain = chain
        self.newest: int | None = None
        self.is_down = False
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LaggingNode

    def do_POST(self) -> None:
        """Answer a request or a batch."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.is_down:
            self.send_error(503)
            return
        content = self.server.answer(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Do not log."""
