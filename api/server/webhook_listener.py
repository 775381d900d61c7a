"""A receiver of webhooks for development: verifies each message, and passes it on."""

import json
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from signer.errors import InvalidInputError
from signer.ports.clock import Clock
from signer.webhooks.signatures import VerifyingKey, verify


_LARGEST = 256 * 1024

_LENGTH = re.compile(r"[0-9]{1,7}")


class WebhookListener(ThreadingHTTPServer):
    """
    Listens on 127.0.0.1, and calls *receive* with each verified message.

    A message without a valid signature is answered with 401, and reported to *refuse*.
    """

    daemon_threads = False  # The process ends after the last response.

    def __init__(
        self,
        port: int,
        keys: Sequence[VerifyingKey],
        clock: Clock,
        *,
        receive: Callable[[dict[str, Any]], None],
        refuse: Callable[[str], None],
    ) -> None:
        """Listen on *port*; 0 means any.  ``OSError`` if the port is in use."""
        super().__init__(("127.0.0.1", port), _Handler)
        self._keys = keys
        self._clock = clock
        self._receive = receive
        self._refuse = refuse

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def accept(self, headers: dict[str, str], body: bytes) -> HTTPStatus:
        try:
            verify(self._keys, headers, body, self._clock())
        except InvalidInputError as e:
            self._refuse(str(e))
            return HTTPStatus.UNAUTHORIZED
        self._receive(json.loads(body))
        return HTTPStatus.NO_CONTENT


class _Handler(BaseHTTPRequestHandler):
    server: WebhookListener
    timeout = 10
    server_version = "hotwallet"
    sys_version = ""

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(length) or int(length) > _LARGEST:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.accept(headers, body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: the command prints the messages."""
