"""A proxy before the service that plants one weakness in it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import urllib3

from tests.support.servers import LocalHandler


@dataclass
class Message:
    """A request, and then its answer, as the proxy passes them on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    tenant: str
    """The token of the tenant that a weak deployment takes a client for."""
    status: int = 0
    asked: bytes = field(init=False)
    """What the client has sent."""
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.asked = self.path.encode() + self.body
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")

    def take_for_the_tenant(self) -> None:
        self.headers["Authorization"] = f"Bearer {self.tenant}"

    def change(self, name: str, change: Callable[[object], object]) -> None:
        """Change the field *name* of the body, if it is an object that has it."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return
        if isinstance(document, dict) and name in document:
            document[name] = change(document[name])
            self.body = json.dumps(document).encode()


Change = Callable[[Message], None]


@dataclass(frozen=True)
class Weakness:
    """What a weak deployment does with a request, and with its answer."""

    request: Change = lambda message: None
    answer: Change = lambda message: None
    holds_up: bool = False
    """Whether each connection waits for the one before."""


class WeakProxy(LocalHandler):
    """Passes requests to ``url``; a subclass has a ``weakness``."""

    url: ClassVar[str]
    tenant: ClassVar[str]
    weakness: ClassVar[Weakness]
    _pool: ClassVar = urllib3.PoolManager(retries=False, maxsize=16)
    _turn: ClassVar = Lock()

    def handle(self) -> None:
        """Answer a connection, as a server with one thread if it is such one."""
        if not self.weakness.holds_up:
            return super().handle()
        with self._turn:
            self.connection.settimeout(0.2)
            return super().handle()

    def respond(self) -> None:
        message = Message(
            self.command,
            self.path,
            dict(self.headers.items()),
            self.read_body(),
            self.tenant,
        )
        self.weakness.request(message)
        if not message.status:
            self._pass_on(message)
        self.weakness.answer(message)
        self.send_response_only(message.status)
        for name, value in message.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(message.body)))
        self.end_headers()
        self.wfile.write(message.body)

    def _pass_on(self, message: Message) -> None:
        dropped = {"Content-Length", "Transfer-Encoding", "Connection", "Host"}
        answered = self._pool.request(
            message.method,
            self.url + message.path,
            body=message.body,
            headers={k: v for k, v in message.headers.items() if k not in dropped},
            redirect=False,
        )
        message.status, message.body = answered.status, answered.data
        message.headers = {
            k: v for k, v in answered.headers.items() if k not in dropped
        }


def has_claims(token: str) -> bool:
    """Return whether *token* looks like a JWT."""
    return token.count(".") == 2


def read_query(message: Message) -> str | None:
    """Return the token in the query of *message*."""
    found = parse_qs(urlsplit(message.path).query).get("access_token")
    return found[0] if found else None
