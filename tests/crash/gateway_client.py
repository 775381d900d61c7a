"""A payment gateway's client: it repeats a request until it has a response."""

import hashlib
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from eth_utils.address import to_checksum_address

from tests.crash.http_client import NO_RESPONSE, TOKEN_SECONDS, mint_token, request
from tests.crash.journal import Journal


_REQUEST_SECONDS = 12.0
_WATCH_SECONDS = 600.0
_FINAL = frozenset({"confirmed", "refused", "cancelled", "failed"})

# After any other conflict the same request may still succeed.
_FINAL_CONFLICTS = frozenset({"idempotency-mismatch", "conflict"})


# The response is stored by a worker, with the acceptance, and by the request itself.
_PREFERENCES: Sequence[Mapping[str, str]] = (
    {},
    {"Prefer": "respond-async"},
    {"Prefer": "wait=1"},
)


@dataclass(frozen=True, slots=True)
class Order:
    """
    One payment that a client requests, always with the same idempotency key.

    With ``calldata``, in hex, it is a call of ``recipient``, whose value in wei is
    ``amount`` in millionths; ``0x`` sends coin.  Only clients of JSON-RPC send calls.
    """

    key: str
    recipient: str
    amount: str
    calldata: str | None = None

    @classmethod
    def numbered(cls, series: str, number: int) -> "Order":
        """Return the same order for the same arguments; its recipient is unique."""
        seed = hashlib.sha256(f"{series}-{number}".encode()).digest()
        units = int.from_bytes(seed[20:24]) % 9_000_000 + 1
        return cls(
            key=f"{series}-{number}",
            recipient=to_checksum_address(seed[:20]),
            amount=f"{units // 1_000_000}.{units % 1_000_000:06d}",
        )

    @property
    def headers(self) -> dict[str, str]:
        """The key, and one of the ways to wait; always the same for an order."""
        seed = hashlib.sha256(self.key.encode()).digest()[0]
        prefer = _PREFERENCES[seed % len(_PREFERENCES)]
        return {"Idempotency-Key": self.key, **prefer}

    @property
    def body(self) -> dict[str, str]:
        """The request."""
        return {
            "payment_session_id": f"ps_{self.key}",
            "network": "local",
            "token": "TUSD",
            "recipient": self.recipient,
            "amount": self.amount,
        }


class Gateway:
    """
    Requests refunds from the service on *port*; threads may share it.

    It is the tenant *subject*.  After ``stop`` every call raises ``InterruptedError``.
    """

    def __init__(
        self, port: int, token_key: Path, journal: Journal, subject: str = "gateway"
    ) -> None:
        self.stop = threading.Event()
        self._port = port
        self._token_key = token_key
        self._journal = journal
        self._subject = subject
        self._lock = threading.Lock()
        self._token, self._token_until = "", 0.0

    def pay(self, order: Order) -> str | None:
        """Repeat the request until it is answered; return the refund's id, if any."""
        for pause in self._pauses():
            began = self._journal.write(
                "asked", key=order.key, recipient=order.recipient, amount=order.amount
            )
            try:
                status, document, _ = self._request("POST", "/v1/refunds", order)
            except NO_RESPONSE as e:
                self._journal.write("failed", key=order.key, error=type(e).__name__)
            else:
                self._journal.write(
                    "answered",
                    key=order.key,
                    began=began,
                    http=status,
                    **_facts(document),
                )
                if _is_final_answer(status, document):
                    return document.get("id")
            time.sleep(pause)
        raise AssertionError("the pauses never end")

    def cancel(self, order: Order, refund_id: str) -> bool:
        """Repeat a cancellation until it is answered; return whether it is accepted."""
        for pause in self._pauses():
            with suppress(*NO_RESPONSE):
                path = f"/v1/refunds/{refund_id}/cancel"
                status, document, _ = self._request("POST", path)
                self._journal.write(
                    "cancelled", key=order.key, http=status, **_facts(document)
                )
                if status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    return status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}
            time.sleep(pause)
        raise AssertionError("the pauses never end")

    def watch(self, order: Order, refund_id: str) -> dict[str, Any]:
        """
        Poll a refund until it is final, journal each change, and return its end.

        Raises:
            TimeoutError: It is not final after ten minutes.
        """
        last: dict[str, Any] = {}
        deadline = time.monotonic() + _WATCH_SECONDS
        for pause in self._pauses():
            began = time.monotonic()
            with suppress(*NO_RESPONSE):
                status, document, _ = self._request("GET", f"/v1/refunds/{refund_id}")
                if status == HTTPStatus.OK and _facts(document) != last:
                    last = _facts(document)
                    self._journal.write("seen", key=order.key, began=began, **last)
            if last.get("status") in _FINAL:
                return document
            if time.monotonic() > deadline:
                raise TimeoutError(f"{order.key} is still {last.get('status')}")
            time.sleep(pause)
        raise AssertionError("the pauses never end")

    def _pauses(self) -> Iterator[float]:
        """Yield the seconds between tries, growing to one, with jitter."""
        pause = 0.05
        while not self.stop.is_set():
            yield pause * random.uniform(0.5, 1.5)
            pause = min(pause * 2, 1.0)
        raise InterruptedError("the gateway was stopped")

    def _request(
        self, method: str, path: str, order: Order | None = None
    ) -> tuple[int, dict[str, Any], bytes]:
        headers = {} if order is None else order.headers
        return request(
            self._port,
            method,
            path,
            token=self._get_token(),
            body=None if order is None else order.body,
            seconds=_REQUEST_SECONDS,
            **headers,
        )

    def _get_token(self) -> str:
        """Return a token that is good for another minute at least."""
        with self._lock:
            if time.monotonic() > self._token_until:
                self._token = mint_token(
                    self._token_key, self._subject, roles=["merchant"]
                )
                self._token_until = time.monotonic() + TOKEN_SECONDS - 60
            return self._token


def _is_final_answer(status: int, document: dict[str, Any]) -> bool:
    if status == HTTPStatus.CONFLICT:
        return document.get("code") in _FINAL_CONFLICTS
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return False
    return status < HTTPStatus.INTERNAL_SERVER_ERROR


def _facts(document: dict[str, Any]) -> dict[str, Any]:
    # The ``status`` of a problem document is the HTTP status.
    refund = ("id", "status", "nonce", "tx_hash", "recipient", "amount")
    names = refund if "id" in document else ("code",)
    return {name: document[name] for name in names if name in document}
