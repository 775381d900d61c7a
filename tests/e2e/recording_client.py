"""A client that sends every kind of request, and records all answers."""

import http.client
import itertools
import json
import secrets
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api.auth.dev_tokens import mint
from api.auth.jwt_verifier import Role
from signer.config.settings import Settings
from tests.e2e.canaries import Canary, value
from tests.e2e.gateway import RECIPIENT


KID = "canary-1"

_SCOPES = ("keys:rotate", "keys:read", "metrics:read")
_PATIENCE = 30.0


class RecordingClient:
    """
    A client of one service; it records the ``answers`` and its own ``tokens``.

    Args:
        port: The port of the service.
        settings: The settings of the service, to mint tokens with.
        keys: Names of keys to rotate to.
    """

    def __init__(self, port: int, settings: Settings, keys: Iterator[str]) -> None:
        self._port = port
        self._settings = settings
        self._keys = keys
        self._numbers = itertools.count(1)
        self.answers: list[str] = []
        self.tokens: list[Canary] = []
        self._merchant = self._token(["merchant"])
        self.refund_id = "rf_0"

    def request_all(self) -> list[str]:
        """Send every kind of request once, concurrently; return the answers."""
        first = len(self.answers)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda send: send(), self._requests()))
        return self.answers[first:]

    def request_refund(self) -> int:
        number = next(self._numbers)
        status, text = self._send(
            "POST",
            "/v1/refunds",
            {"Authorization": f"Bearer {self._merchant}"}
            | {"Idempotency-Key": f"key-{number}"},
            {
                "payment_session_id": f"ps_{number}",
                "network": "local",
                "token": "TUSD",
                "recipient": RECIPIENT,
                "amount": "1.25",
            },
        )
        if status == http.client.CREATED:
            self.refund_id = json.loads(text)["id"]
        return status

    def send_malformed_requests(self) -> None:
        """Send malformed requests, and requests with secrets in wrong places."""
        odd = value("dsn-password-odd")
        for raw in (
            f"GET /{value('raw-key')} NONSENSE\r\n\r\n",
            f"{value('pkcs11-pin')} / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            f"GET / HTTP/1.1\r\n{value('jwt-hmac-secret')}\r\n\r\n",
            f"GET / HTTP/1.1\r\nX: {value('aws-session-token') * 40}\r\n\r\n",
            f"GET /{value('jwt-admin') * 40} HTTP/1.1\r\n\r\n",
            f"GET /v1/{odd} HTTP/1.1\r\nHost: {odd}\r\nConnection: close\r\n\r\n",
        ):
            address = ("127.0.0.1", self._port)
            with socket.create_connection(address, _PATIENCE) as connection:
                connection.sendall(raw.encode())
                connection.shutdown(socket.SHUT_WR)
                with connection.makefile("rb") as answer:
                    self.answers.append(answer.read().decode())

    def _requests(self) -> "Iterator[Any]":
        merchant = {"Authorization": f"Bearer {self._merchant}"}
        refund = f"/v1/refunds/{self.refund_id}"
        yield self.request_refund
        for path in ("/v1/refunds?limit=2", refund, f"{refund}/explain"):
            yield lambda path=path: self._send("GET", path, merchant)
        for path in ("/v1/admin/keys", "/metrics"):
            yield lambda path=path: self._send("GET", path, self._administrator())
        for path in ("/readyz", "/healthz"):
            yield lambda path=path: self._send("GET", path, {})
        new_key = {"newKeyId": next(self._keys)}
        # A failover to a missing key raises an alert; a rotation does not.
        for action in ("rotate", "failover"):
            path = f"/v1/admin/kms/{action}"
            yield lambda path=path: self._send(
                "POST", path, self._administrator(), new_key
            )
        for bad in ("jwt-merchant", "jwt-admin", "dsn-password", "session-cookie"):
            header = {"Authorization": f"Bearer {value(bad)}"}
            yield lambda header=header: self._send("GET", "/v1/admin/keys", header)

    def _administrator(self) -> Mapping[str, str]:
        token = self._token(["admin", "devops"], *_SCOPES)
        return {"Authorization": f"Bearer {token}"}

    def _token(self, roles: list[Role], *scopes: str) -> str:
        token = mint(
            self._settings,
            subject=f"client-{secrets.token_hex(4)}",
            roles=roles,
            scopes=scopes,
            key_id=KID,
        )
        signature = token.rpartition(".")[2]
        self.tokens.append(Canary(f"token-{len(self.tokens)}", token, signature))
        return token

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: object = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, _PATIENCE)
        all_headers = {"Content-Type": "application/json", **headers}
        sent = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, sent, all_headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            self.answers.append(f"{answer.status}\n{answer.getheaders()}\n{text}")
        finally:
            connection.close()
        return answer.status, text
