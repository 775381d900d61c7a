"""A server whose answers a test writes, to show what a client does with them."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """An answer; without a *status* the connection is closed instead."""

    status: int | None = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


LOST = Reply(None)


def problem(status: int, code: str, retry_after: int | None = None) -> Reply:
    """Return a problem document, as the service answers."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    document = {
        "type": f"/problems/{code}",
        "status": status,
        "code": code,
        "detail": "because",
        "request_id": "req_1",
    }
    return Reply(status, document, headers)


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class ScriptedService:
    """Gives *replies* in their order, and keeps the requests in ``seen``."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.seen: list[Seen] = []
        self._replies = list(replies)
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.seen.append(Seen(self.command, self.path, headers, body))
                reply = service._replies.pop(0)
                if reply.status is None:
                    self.close_connection = True
                    return
                content = json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
