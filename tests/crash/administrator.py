"""An administrator, who rotates keys over HTTP and writes down what was answered."""

import http.client
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jwt


_SECONDS = 20.0
_TOKEN_SECONDS = 60

# A rotation that somebody died in belongs to him for 20 s, and he may die in several.
_PATIENCE = 180.0


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What was answered, and when, on the monotonic clock.

    ``status`` is 0 where nothing was: then nobody knows whether the service acted.
    """

    began: float
    at: float
    status: int
    document: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether it was done as asked."""
        return self.status == HTTPStatus.OK

    @property
    def address(self) -> str:
        """The new key's address, in lower case."""
        return str(self.document["address"]).lower()


class Administrator:
    """Asks the service on *port*; each request has a token of its own (H9)."""

    def __init__(self, port: int, token_key: Path) -> None:
        self._port = port
        self._key = token_key.read_text(encoding="utf-8")
        self.answers: list[Answer] = []

    def rotate(self, name: str, **fields: bool | str) -> Answer:
        """Ask once to make the key *name* the active one."""
        return self._ask("rotate", {"newKeyId": name, **fields})

    def relocate(self, name: str, **fields: bool | str) -> Answer:
        """Ask once to pin the key *name* to the place that this names."""
        return self._ask("failover", {"newKeyId": name, **fields})

    def _ask(self, what: str, body: dict[str, Any]) -> Answer:
        began = time.monotonic()
        status, document = 0, dict[str, Any]()
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=_SECONDS
        )
        try:
            connection.request(
                "POST",
                f"/v1/admin/kms/{what}",
                json.dumps(body),
                {
                    "Authorization": f"Bearer {self._token()}",
                    "Content-Type": "application/json",
                },
            )
            answer = connection.getresponse()
            document, status = json.loads(answer.read()), answer.status
        except (OSError, http.client.HTTPException, ValueError) as e:
            document = {"code": type(e).__name__}
        finally:
            connection.close()
        self.answers.append(Answer(began, time.monotonic(), status, document))
        return self.answers[-1]

    def insist(self, name: str, **fields: bool | str) -> Answer:
        """Ask until the key *name* is the active one."""
        return _until_done(lambda: self.rotate(name, **fields))

    def move(self, name: str) -> Answer:
        """Ask until the key is pinned to the place that *name* names."""
        return _until_done(lambda: self.relocate(name))

    def _token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": "hotwallet",
            "aud": "hotwallet",
            "sub": "administrator",
            "jti": secrets.token_hex(16),
            "iat": now,
            "nbf": now,
            "exp": now + _TOKEN_SECONDS,
            "roles": ["admin"],
            "scope": "keys:rotate",
        }
        return jwt.encode(claims, self._key, "ES256", {"typ": "at+jwt"})


def _until_done(ask: Callable[[], Answer]) -> Answer:
    deadline = time.monotonic() + _PATIENCE
    while not (answer := ask()).is_done:
        assert time.monotonic() < deadline, f"not done: {answer}"
        time.sleep(0.25)
    return answer
