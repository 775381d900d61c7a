"""
The emulator's HTTP: requests, answers, and the script of faults between them.

Standard library only.  werkzeug's server closes every connection and waits 10 ms
after each answer, which would hide what a kept-alive connection costs.
"""

import contextlib
import json
import re
import socket
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dev.kms_keys import KMSError, Parameters, Signing


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it stood on the wire: *asked* is its decoded JSON."""

    target: str
    asked: Parameters
    headers: Mapping[str, str]
    body: bytes
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def operation(self) -> str:
        """The target without its prefix: ``Sign`` for ``TrentService.Sign``."""
        return self.target.rpartition(".")[2]

    @property
    def region(self) -> str | None:
        """The region that the request was signed for (SigV4 credential scope)."""
        scope = re.search(
            r"Credential=[^/]+/\d{8}/([a-z0-9-]+)/kms/aws4_request",
            self.headers.get("authorization", ""),
        )
        return scope.group(1) if scope else None


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/x-amz-json-1.1"
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, request_id: str) -> bytes:
        """Return the status line and the header fields, with the empty line."""
        fields = {
            "x-amzn-RequestId": request_id,
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} -", *(f"{k}: {v}" for k, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that waits for its answer, and what a fault may do with it."""

    call: Call
    connection: socket.socket
    over: threading.Event
    answer: Callable[[Signing | None], Reply]


Fault = Callable[[Exchange], Reply | None]
"""Answers a request.  None: there is no answer, and the connection is closed."""


class Faults:
    """
    Which fault meets which request, in order.

    ``over`` is set when the faults at work now are to let go of their requests.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._queues: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}

    def on(self, operation: str, fault: Fault, *, times: int = 1) -> None:
        """Let *fault* meet the next *times* requests for *operation*."""
        with self._lock:
            self._queues[operation].extend([fault] * times)

    def always(self, operation: str, fault: Fault) -> None:
        """Let *fault* meet every request for *operation* that no other one meets."""
        with self._lock:
            self._always[operation] = fault

    def clear(self) -> None:
        """Forget them all, and end those at work."""
        with self._lock:
            self._queues.clear()
            self._always.clear()
            self.over.set()
            self.over = threading.Event()

    def take(self, operation: str) -> Fault | None:
        """Return the fault that the next request for *operation* meets."""
        with self._lock:
            queue = self._queues[operation]
            return queue.popleft() if queue else self._always.get(operation)


def error_reply(error: KMSError) -> Reply:
    """Return *error* as AWS's JSON 1.1 protocol writes it."""
    body = {"__type": error.code, "message": error.message}
    return Reply(json.dumps(body).encode(), error.status)


class Server(ThreadingHTTPServer):
    """
    Serves KMS's protocol (AWS JSON 1.1) on 127.0.0.1, a thread a connection.

    ``close`` ends idle connections too, and waits for their threads.
    """

    daemon_threads = False
    request_queue_size = 128

    def __init__(
        self, port: int, handle: Callable[[Call, socket.socket], Reply | None]
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.handle = handle
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up in the middle are what these tests are about."""

    def close(self) -> None:
        """Stop accepting, hang up on everybody, and wait for their threads."""
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Reads requests from one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = Call(
            target=self.headers.get("X-Amz-Target", ""),
            asked=_decoded(body),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )
        reply = self.server.handle(call, self.connection)
        if reply is None:
            self.close_connection = True
        else:
            self.wfile.write(reply.head(call.request_id) + reply.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name.
        """Keep quiet: the journal tells more."""


def _decoded(body: bytes) -> Parameters:
    try:
        decoded = json.loads(body)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
