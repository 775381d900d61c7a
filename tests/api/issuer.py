"""An issuer of tokens on a real socket, which publishes its keys."""

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt

from tests.api.support import Json


Answer = Callable[[BaseHTTPRequestHandler], None]


def jwk(alg: str, key: Any, kid: str = "a", /, **changes: Any) -> Json:
    """Return *key*'s public half as issuers publish it; ``...`` leaves a member out."""
    public = key.public_key() if hasattr(key, "public_key") else key
    members = jwt.get_algorithm_by_name(alg).to_jwk(public, as_dict=True)
    named: Json = {**members, "kid": kid, "alg": alg, "use": "sig", **changes}
    return {name: value for name, value in named.items() if value is not ...}


class Issuer:
    """``with Issuer() as issuer: issuer.publish(jwk(...)); ... issuer.url``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests = 0
        self.answer: Answer = document({"keys": []})
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests += 1
                issuer.answer(self)

            def log_message(self, *args: object) -> None:
                """Do not log."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/jwks?a=b"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.gone.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def publish(self, *keys: Any) -> None:
        self.answer = document({"keys": keys})

    def fail(self) -> None:
        self.answer = document({}, 503)


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gone = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


def document(content: Json | bytes, status: int = 200, /, **headers: str) -> Answer:
    """Return an answer with *content*, as JSON if it is not bytes yet."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def slow(head: bytes, drop: bytes) -> Answer:
    """Return an answer that begins with *head* and never ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        assert isinstance(handler.server, _Server)
        while not handler.server.gone.wait(0.02):
            handler.wfile.write(drop)

    return answer
