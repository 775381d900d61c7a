"""
The HTTP server of the KMS emulator, and the script of its faults.

It uses the standard library: werkzeug's server closes every connection and waits 10 ms
after each response, which would distort measurements of kept-alive connections.
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

from dev.kms_signing import KMSError, Parameters, Signing


@dataclass(frozen=True, slots=True)
class Call:
    """One request as received; *parameters* is its decoded JSON."""

    target: str
    parameters: Parameters
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
    """An HTTP response."""

    body: bytes
    status: int = 200
    content_type: str = "application/x-amz-json-1.1"
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, request_id: str) -> bytes:
        """Return the status line and the headers, with the empty line."""
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
    """A request without a response yet, and what a fault may use."""

    call: Call
    connection: socket.socket
    released: threading.Event
    respond: Callable[[Signing | None], Reply]


Fault = Callable[[Exchange], Reply | None]
"""Responds to a request.  None closes the connection without a response."""


class Faults:
    """
    The faults for the next requests, in order.

    ``released`` is set to end the faults that are blocking a request.
    """

    def __init__(self) -> None:
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._queues: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}

    def on(self, operation: str, fault: Fault, *, times: int = 1) -> None:
        """Apply *fault* to the next *times* requests for *operation*."""
        with self._lock:
            self._queues[operation].extend([fault] * times)

    def always(self, operation: str, fault: Fault) -> None:
        """Apply *fault* to every request for *operation* that has no other fault."""
        with self._lock:
            self._always[operation] = fault

    def clear(self) -> None:
        """Remove all faults, and end those that are blocking a request."""
        with self._lock:
            self._queues.clear()
            self._always.clear()
            self.released.set()
            self.released = threading.Event()

    def take(self, operation: str) -> Fault | None:
        """Return the fault for the next request for *operation*, if there is one."""
        with self._lock:
            queue = self._queues[operation]
            return queue.popleft() if queue else self._always.get(operation)


def error_reply(error: KMSError) -> Reply:
    """Return *error* in the JSON 1.1 protocol of AWS."""
    body = {"__type": error.code, "message": error.message}
    return Reply(json.dumps(body).encode(), error.status)


class Server(ThreadingHTTPServer):
    """
    Serves KMS's protocol (AWS JSON 1.1) on 127.0.0.1, with a thread per connection.

    A subclass of ``Handler`` reads the requests of another protocol.

    ``close`` also closes idle connections and waits for their threads.
    """

    daemon_threads = False
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        handle: Callable[[Call, socket.socket], Reply | None],
        handler: "type[Handler] | None" = None,
    ) -> None:
        super().__init__(("127.0.0.1", port), handler or Handler)
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
        """Ignore the error: tests close connections on purpose."""

    def close(self) -> None:
        """Close the listener and all connections, and wait for their threads."""
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Serves the requests of one connection, one after another."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        """Respond to one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = self.read_call(body)
        reply = self.server.handle(call, self.connection)
        if reply is None:
            self.close_connection = True
        else:
            self.wfile.write(reply.head(call.request_id) + reply.body)

    def read_call(self, body: bytes) -> Call:
        """Return the request with *body*."""
        return Call(
            target=self.headers.get("X-Amz-Target", ""),
            parameters=decode(body),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class.
        """Log nothing: the journal has the requests."""


def decode(body: bytes) -> Parameters:
    """Return the JSON object in *body*, or an empty one."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
