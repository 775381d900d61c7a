"""A client of the route that accepts many refunds in one request."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from pydantic import SecretStr

from backends.http_client import ExchangeError, HTTPClient, is_secure
from signer.errors import InvalidInputError
from signer.nesting import is_deeper
from signer.strict_json import MAX_DEPTH


class BatchReply(NamedTuple):
    """
    The reply to a batch: HTTP status, JSON object, and ``Retry-After`` in seconds.

    ``status`` is None if there was no response: the batch may have arrived.
    ``document`` is empty if the body is not a JSON object.
    """

    status: int | None
    document: Mapping[str, Any]
    retry_after: int | None = None


class SendBatch(Protocol):
    """Sends the body of ``POST /v1/refunds/batch``; raises no error."""

    def __call__(self, body: bytes, token: str) -> BatchReply:
        """Send *body* with the bearer *token*, and return the reply."""


_TIMEOUT = 60.0  # Seconds: longer than gunicorn and the proxy allow a request.
_MAX_REPLY = 8 * 1024 * 1024  # Bytes; the service needs 1 KiB for each refund.


class RefundClient:
    """
    Sends batches to one service.

    Redirects are not followed, so that no other host gets the token.
    """

    def __init__(self, url: str) -> None:
        """
        Check *url*, the address of the service; no connection is opened.

        Raises:
            InvalidInputError: It is not an https URL, or a loopback http URL, or it has
                a user name, a query or a fragment.
        """
        if not is_secure(url, allow_http=True) or "?" in url or "#" in url:
            raise InvalidInputError(
                "must be an https URL, or http to this host, without a user name and"
                " a query: the token is sent to it",
                field="--url",
            )
        self._client = HTTPClient(
            SecretStr(f"{url.rstrip('/')}/v1/refunds/batch"),
            timeout=_TIMEOUT,
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            max_bytes=_MAX_REPLY,
        )

    def __call__(self, body: bytes, token: str) -> BatchReply:
        """Send *body*; as ``api.extras.batch_files.client.SendBatch``."""
        headers = {"Authorization": f"Bearer {token}"}
        try:
            response = self._client.exchange("POST", body, headers=headers)
        except ExchangeError:
            return BatchReply(None, {})
        delay = response.retry_after or ""
        return BatchReply(
            response.status,
            _parse(response.body),
            int(delay) if delay.isascii() and delay.isdecimal() else None,
        )


def _parse(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
        # The parser recurses: a deep document would end the process.
        document = None if is_deeper(text, MAX_DEPTH) else json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
