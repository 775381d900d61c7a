"""An administrator's HTTP client: it rotates keys and keeps all responses."""

import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.crash.http_client import NO_RESPONSE, mint_token, request


_REQUEST_SECONDS = 20.0

# A rotation belongs to the process that began it for a while, and several may die.
_RETRY_FOR_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Response:
    """
    One response, with the times of request and response on the monotonic clock.

    ``status`` is 0 if there was none: then the service may or may not have acted.
    """

    began: float
    at: float
    status: int
    document: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether the service did what was requested."""
        return self.status == HTTPStatus.OK

    @property
    def address(self) -> str:
        """The new key's address, in lower case."""
        return str(self.document["address"]).lower()


class AdminClient:
    """Sends requests to the service on *port*, each with its own token (H9)."""

    def __init__(self, port: int, token_key: Path) -> None:
        self._port = port
        self._token_key = token_key
        self.responses: list[Response] = []

    def rotate(self, key_id: str, **fields: bool | str) -> Response:
        """Request once that *key_id* becomes the active key."""
        return self._post("rotate", {"newKeyId": key_id, **fields})

    def fail_over(self, key_id: str) -> Response:
        """Request once that the key is pinned to its replica *key_id*."""
        return self._post("failover", {"newKeyId": key_id})

    def rotate_until_done(self, key_id: str, **fields: bool | str) -> Response:
        """Repeat ``rotate`` until the service has done it."""
        return self._post_until_done("rotate", {"newKeyId": key_id, **fields})

    def fail_over_until_done(self, key_id: str) -> Response:
        """Repeat ``fail_over`` until the service has done it."""
        return self._post_until_done("failover", {"newKeyId": key_id})

    def _post_until_done(self, operation: str, body: dict[str, Any]) -> Response:
        deadline = time.monotonic() + _RETRY_FOR_SECONDS
        while not (response := self._post(operation, body)).is_done:
            assert time.monotonic() < deadline, f"not done: {response}"
            time.sleep(0.25)
        return response

    def _post(self, operation: str, body: dict[str, Any]) -> Response:
        began = time.monotonic()
        token = mint_token(
            self._token_key, "administrator", roles=["admin"], scope="keys:rotate"
        )
        path = f"/v1/admin/kms/{operation}"
        try:
            status, document, _ = request(
                self._port,
                "POST",
                path,
                token=token,
                body=body,
                seconds=_REQUEST_SECONDS,
            )
        except NO_RESPONSE as e:
            status, document = 0, {"code": type(e).__name__}
        self.responses.append(Response(began, time.monotonic(), status, document))
        return self.responses[-1]
