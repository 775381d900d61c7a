"""
A node, an issuer and a webhook on one port.

A failing one answers with the URL and its key, the header fields and every canary: the
worst that a vendor's error page can show.
"""

import json
import socket
import struct
import threading
import urllib.request
from collections import Counter
from enum import StrEnum

from tests.e2e.canaries import ALL
from tests.support.servers import LocalHandler, LocalServer


class Role(StrEnum):
    """A server, which the path of the request selects."""

    NODE = "node"
    ISSUER = "issuer"
    WEBHOOK = "webhook"


class Failure(StrEnum):
    NONE = "none"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    TOO_MANY = "429"
    FAILING = "500"
    UNAVAILABLE = "503"
    REDIRECT = "307"
    PAGE = "HTML"
    GARBAGE = "garbage"
    ERROR = "a JSON-RPC error"
    REVERT = "a malformed revert reason"
    HANG = "hangs"
    RESET = "resets"


class LeakingServer(LocalServer):
    """
    ``failures`` may be changed at any time; ``met`` counts the requests of each.

    Args:
        node: The URL of the chain that answers while the node does not fail.
        key_set: The JWK Set of the issuer.
    """

    def __init__(self, node: str = "", key_set: bytes = b"") -> None:
        super().__init__(_Handler)
        self.node = node
        self.key_set = key_set
        self.failures = dict.fromkeys(Role, Failure.NONE)
        self.met = Counter[tuple[Role, Failure]]()
        self.alerts: list[str] = []
        self.closing = threading.Event()

    @property
    def netloc(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        super().__exit__()

    def forward(self, body: bytes) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.node, body, headers)
        with opener.open(request, timeout=10) as answer:
            content: bytes = answer.read()
        return content


class _Handler(LocalHandler):
    server: LeakingServer

    def respond(self) -> None:
        """Answer, or fail."""
        body, role = self.read_body(), self._role()
        failure = self.server.failures[role]
        if failure is Failure.REVERT and not _executes(body):
            failure = Failure.NONE
        self.server.met[role, failure] += 1
        if role is Role.WEBHOOK:
            self.server.alerts.append(body.decode())
        match failure:
            case Failure.NONE:
                self._succeed(role, body)
            case Failure.HANG:
                self.server.closing.wait(30)
                self.close_connection = True
            case Failure.RESET:
                # A linger time of 0 makes close() send RST (socket(7)).
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True
            case _:
                self._leak(failure, body)

    def _role(self) -> Role:
        if "/services/" in self.path:
            return Role.WEBHOOK
        return Role.ISSUER if self.path.startswith("/keys") else Role.NODE

    def _succeed(self, role: Role, body: bytes) -> None:
        match role:
            case Role.NODE:
                self.answer(200, self.server.forward(body))
            case Role.ISSUER:
                self.answer(200, self.server.key_set)
            case Role.WEBHOOK:
                self.answer(204, b"")

    def _leak(self, failure: Failure, body: bytes) -> None:
        known = f"{self.path} {self.headers} {ALL}"
        match failure:
            case Failure.ERROR:
                self.answer(200, _error(body, -32000, known))
            case Failure.REVERT:
                self.answer(200, _error(body, 3, f"execution reverted: {known}"))
            case Failure.PAGE:
                page = f"<html><a href='{known}'>".encode()
                self.answer(200, page, Content_Type="text/html")
            case Failure.GARBAGE:
                self.answer(200, b'{"keys": [{"kid": "\xff' + known.encode())
            case _:
                where = f"{self.server.url}{self.path}again"
                self.answer(int(failure), known.encode(), Location=where)


def _executes(body: bytes) -> bool:
    """Return whether *body* calls a contract, which alone can revert."""
    return b"eth_call" in body or b"eth_estimateGas" in body


def _error(body: bytes, code: int, known: str) -> bytes:
    """Return a JSON-RPC error for each request in *body* (JSON-RPC 2.0, 5.1)."""
    requests = json.loads(body)
    error = {"code": code, "message": known, "data": known}
    answers = [
        {"jsonrpc": "2.0", "id": each["id"], "error": error}
        for each in (requests if isinstance(requests, list) else [requests])
    ]
    return json.dumps(answers if isinstance(requests, list) else answers[0]).encode()
