"""
A payment gateway that never gives up and never asks twice with two keys.

It speaks HTTP through the standard library and shares no code with the service.
"""

import hashlib
import http.client
import json
import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import jwt
from eth_utils.address import to_checksum_address

from tests.crash.journal import Journal


_TOKEN_SECONDS = 240
_REQUEST_SECONDS = 12.0
_FINAL = frozenset({"confirmed", "refused", "cancelled", "failed"})

# No answer, or none that makes sense: whether the service acted is unknown.
_SILENCE = (OSError, http.client.HTTPException, ValueError)

# A conflict that is final; any other one says that the key is being served.
_FINAL_CONFLICTS = frozenset({"idempotency-mismatch", "conflict"})


@dataclass(frozen=True, slots=True)
class Order:
    """One refund that the gateway wants, under one key, for ever."""

    key: str
    recipient: str
    amount: str

    @classmethod
    def numbered(cls, series: str, number: int) -> "Order":
        """
        Return the order with this *number*; nobody else has its recipient.

        The same series and number give the same order, in any process.
        """
        seed = hashlib.sha256(f"{series}-{number}".encode()).digest()
        units = int.from_bytes(seed[20:24]) % 9_000_000 + 1
        return cls(
            key=f"{series}-{number}",
            recipient=to_checksum_address(seed[:20]),
            amount=f"{units // 1_000_000}.{units % 1_000_000:06d}",
        )

    def body(self) -> bytes:
        """Return the request's JSON."""
        return json.dumps(
            {
                "payment_session_id": f"ps_{self.key}",
                "network": "local",
                "token": "TUSD",
                "recipient": self.recipient,
                "amount": self.amount,
            }
        ).encode()


class Tokens:
    """Mints the gateway's JWTs, a fresh one every few minutes; threads share it."""

    def __init__(self, private_key_pem: str) -> None:
        self._key = private_key_pem
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0

    def __call__(self) -> str:
        """Return a token that is good for another minute at least."""
        with self._lock:
            if time.monotonic() > self._until:
                self._token = self._minted(int(time.time()))
                self._until = time.monotonic() + _TOKEN_SECONDS - 60
            return self._token

    def _minted(self, now: int) -> str:
        claims = {
            "iss": "hotwallet",
            "aud": "hotwallet",
            "sub": "gateway",
            "jti": secrets.token_hex(16),
            "iat": now,
            "nbf": now,
            "exp": now + _TOKEN_SECONDS,
            "roles": ["merchant"],
        }
        return jwt.encode(claims, self._key, "ES256", {"typ": "at+jwt"})


class Gateway:
    """Asks the service on *port* for refunds, and journals all of it."""

    def __init__(self, port: int, tokens: Tokens, journal: Journal) -> None:
        self._port = port
        self._tokens = tokens
        self._journal = journal

    def pay(self, order: Order) -> str | None:
        """Ask until there is an answer; return the refund's id, if there is one."""
        for pause in _pauses(1.0):
            began = self._journal.write(
                "asked", key=order.key, recipient=order.recipient, amount=order.amount
            )
            try:
                status, document = self._request("POST", "/v1/refunds", order)
            except _SILENCE as e:
                self._journal.write("failed", key=order.key, error=type(e).__name__)
            else:
                told = {"key": order.key, "began": began, "http": status}
                told["body"] = hashlib.sha256(document.pop("raw")).hexdigest()
                self._journal.write("answered", **told, **_facts(document))
                if _is_answer(status, document):
                    return document.get("id")
            time.sleep(pause)
        raise AssertionError("there is always another try")

    def watch(self, order: Order, refund_id: str) -> None:
        """Look at a refund until it is final, and journal what changes."""
        last: dict[str, Any] = {}
        for pause in _pauses(3.0):
            began = time.monotonic()
            with suppress(*_SILENCE):
                status, document = self._request("GET", f"/v1/refunds/{refund_id}")
                document.pop("raw")
                if status == HTTPStatus.OK and _facts(document) != last:
                    last = _facts(document)
                    self._journal.write("seen", key=order.key, began=began, **last)
            if last.get("status") in _FINAL:
                return
            time.sleep(pause)

    def _request(
        self, method: str, path: str, order: Order | None = None
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=_REQUEST_SECONDS
        )
        headers = {"Authorization": f"Bearer {self._tokens()}"}
        if order is not None:
            headers["Content-Type"] = "application/json"
            headers["Idempotency-Key"] = order.key
        try:
            body = None if order is None else order.body()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            raw = answer.read()
            document = json.loads(raw)
        finally:
            connection.close()
        if not isinstance(document, dict):
            raise ValueError("not an object")  # noqa: TRY004  Retried as the others.
        return answer.status, {**document, "raw": raw}


def _is_answer(status: int, document: dict[str, Any]) -> bool:
    if status == HTTPStatus.CONFLICT:
        return document.get("code") in _FINAL_CONFLICTS
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return False
    return status < HTTPStatus.INTERNAL_SERVER_ERROR


def _facts(document: dict[str, Any]) -> dict[str, Any]:
    # A problem document has a status, too, and means the HTTP one.
    refund = ("id", "status", "nonce", "tx_hash", "recipient", "amount")
    names = refund if "id" in document else ("code",)
    return {name: document[name] for name in names if name in document}


def _pauses(longest: float) -> Iterator[float]:
    """Yield how long to wait after each try, for ever, with jitter."""
    pause = 0.05
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(pause * 2, longest)
