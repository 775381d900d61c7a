"""What requests have in common."""

import uuid
from urllib.parse import quote


FINAL = frozenset({"confirmed", "refused", "cancelled", "failed"})
"""The final statuses.  Only ``confirmed`` is paid."""


def new_idempotency_key() -> str:
    """Return a random key: store it first, to use it after a crash."""
    return str(uuid.uuid4())


def path_of(refund_id: str) -> str:
    """Return the path of a refund."""
    return f"/v1/refunds/{quote(refund_id, safe='')}"


def prefer(wait: float) -> dict[str, str]:
    """Return the header that asks the service to wait, in seconds (RFC 7240)."""
    return {"Prefer": f"wait={wait:.0f}"} if wait > 0 else {}
