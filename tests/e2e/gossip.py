"""
A node, an issuer and a webhook at once, which tell all that they know.

Whoever is asked in a bad mood repeats the URL with its key, the header fields and every
canary: the worst that a vendor's error page can say.
"""

import json
import socket
import struct
import threading
import urllib.request
from collections import Counter
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.canaries import ALL


class Role(StrEnum):
    """Who is asked; the path says so."""

    NODE = "node"
    ISSUER = "issuer"
    WEBHOOK = "webhook"


class Mood(StrEnum):
    """How it answers."""

    WELL = "well"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    TOO_MANY = "429"
    FAILING = "500"
    UNAVAILABLE = "503"
    REDIRECT = "307"
    PAGE = "a page"
    GARBAGE = "garbage"
    ERROR = "an error of JSON-RPC"
    REVERT = "a reason that is no reason"
    HANG = "hangs"
    RESET = "resets"


class Gossip(ThreadingHTTPServer):
    """
    See the module.  ``moods`` may be changed at any time; ``met`` counts what was met.

    Args:
        node: The chain that it stands before, where it is in a good mood.
        key_set: What the issuer publishes: a JWK Set.
    """

    daemon_threads = True

    def __init__(self, node: str = "", key_set: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.node = node
        self.key_set = key_set
        self.moods = dict.fromkeys(Role, Mood.WELL)
        self.met = Counter[tuple[Role, Mood]]()
        self.alerts: list[str] = []
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    @property
    def place(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""

    def asked(self, body: bytes) -> bytes:
        """Hand *body* on to the chain, for a question in a good mood."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(self.node, body, headers)
        with opener.open(asked, timeout=10) as answer:
            said: bytes = answer.read()
        return said


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Gossip

    def do_POST(self) -> None:
        """Answer as the mood is."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        role = self._role()
        mood = self.server.moods[role]
        if mood is Mood.REVERT and not _executes(body):
            mood = Mood.WELL
        self.server.met[role, mood] += 1
        if role is Role.WEBHOOK:
            self.server.alerts.append(body.decode())
        match mood:
            case Mood.WELL:
                self._well(role, body)
            case Mood.HANG:
                self.server.closing.wait(30)
                self.close_connection = True
            case Mood.RESET:
                # A lingering time of nothing makes close() send RST (socket(7)).
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                self.close_connection = True
            case _:
                self._tell(mood, body)

    do_GET = do_POST  # noqa: N815  The name that the library looks for.

    def _role(self) -> Role:
        if "/services/" in self.path:
            return Role.WEBHOOK
        return Role.ISSUER if self.path.startswith("/keys") else Role.NODE

    def _well(self, role: Role, body: bytes) -> None:
        match role:
            case Role.NODE:
                self._answer(200, self.server.asked(body))
            case Role.ISSUER:
                self._answer(200, self.server.key_set)
            case Role.WEBHOOK:
                self._answer(204, b"")

    def _tell(self, mood: Mood, body: bytes) -> None:
        known = f"{self.path} {self.headers} {ALL}"
        match mood:
            case Mood.ERROR:
                self._answer(200, _failed(body, -32000, known))
            case Mood.REVERT:
                self._answer(200, _failed(body, 3, f"execution reverted: {known}"))
            case Mood.PAGE:
                self._answer(200, f"<html><a href='{known}'>".encode(), "text/html")
            case Mood.GARBAGE:
                self._answer(200, b'{"keys": [{"kid": "\xff' + known.encode())
            case _:
                self._answer(int(mood), known.encode(), "text/plain")

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status, "As it is")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == int(Mood.REDIRECT):
            self.send_header("Location", f"http://{self.server.place}{self.path}again")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _executes(body: bytes) -> bool:
    """Say whether a question is about a contract: nothing else can revert."""
    return b"eth_call" in body or b"eth_estimateGas" in body


def _failed(body: bytes, code: int, known: str) -> bytes:
    """Return a JSON-RPC error for each question in *body* (JSON-RPC 2.0, 5.1)."""
    asked = json.loads(body)
    error = {"code": code, "message": known, "data": known}
    answers = [
        {"jsonrpc": "2.0", "id": each["id"], "error": error}
        for each in (asked if isinstance(asked, list) else [asked])
    ]
    return json.dumps(answers if isinstance(asked, list) else answers[0]).encode()
