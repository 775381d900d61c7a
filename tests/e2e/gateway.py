"""A client that uses only the documented API."""

import secrets
import time
from collections.abc import Mapping
from typing import Any

from api.auth.dev_tokens import mint
from dev.stack import NETWORK, SYMBOL, Stack, request
from signer.config.settings import Settings


RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


class Gateway:
    """Requests refunds of the service at *url*, and waits for them."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self.token = token

    @classmethod
    def of(cls, stack: Stack, subject: str = "developer") -> "Gateway":
        return cls.at(stack.url, stack.environ, subject)

    @classmethod
    def at(
        cls, url: str, environ: Mapping[str, str], subject: str = "gateway"
    ) -> "Gateway":
        """Return a gateway whose token is made with the settings in *environ*."""
        settings = Settings.from_env(environ)
        return cls(url, mint(settings, subject=subject, roles=["merchant"]))

    def post(
        self,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> tuple[int, Mapping[str, str], Any]:
        """Request a refund of a new session."""
        return request(
            "POST",
            f"{self._url}/v1/refunds",
            headers={
                "Authorization": f"Bearer {self.token}",
                "Idempotency-Key": key or secrets.token_hex(8),
                **(headers or {}),
            },
            body={
                "payment_session_id": f"ps_{secrets.token_hex(8)}",
                "network": NETWORK,
                "token": SYMBOL,
                "recipient": RECIPIENT,
                "amount": "1.25",
                **fields,
            },
        )

    def get(self, refund_id: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        return request("GET", f"{self._url}/v1/refunds/{refund_id}", headers=headers)[2]

    def wait(self, refund_id: str, status: str, patience: float = 30.0) -> Any:
        """Poll a refund until it has *status*."""
        deadline = time.monotonic() + patience
        while (refund := self.get(refund_id))["status"] != status:
            if time.monotonic() > deadline:
                raise AssertionError(f"still {refund['status']}, not {status}")
            time.sleep(0.1)
        return refund
