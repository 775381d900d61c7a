"""What a client asks of the service's own HTTP API."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


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
