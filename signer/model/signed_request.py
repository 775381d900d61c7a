"""A request for a refund, as its tenant signed it."""

from dataclasses import dataclass, field
from datetime import datetime

from signer.model.transaction import EPOCH


METHOD = "POST"

PATH = "/v1/refunds"
"""The path of requests for refunds, which signatures cover."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """
    The bytes that a tenant signed, and the signature: three headers (RFC 9421, 9530).

    The signature also covers the method, the path and the idempotency key.  ``at`` is
    when the service stored it.  In PostgreSQL, the database sets it.
    """

    body: bytes = field(repr=False)
    content_digest: str
    signature_input: str
    signature: str
    at: datetime = EPOCH


NO_SIGNATURE = SignedRequest(b"", "", "", "")
"""A request without a signature."""
