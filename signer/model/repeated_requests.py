"""Idempotency: which stored refund a request repeats, and which it contradicts."""

from collections.abc import Iterable

from signer.errors import ConflictError, IdempotencyMismatchError
from signer.model.refund import Refund


def find_repeated(refund: Refund, stored: Iterable[Refund]) -> Refund | None:
    """
    Return the refund of *stored* that *refund* repeats: same key, same fingerprint.

    They have the idempotency key or the reference of *refund*.

    Raises:
        IdempotencyMismatchError: The key was used for another request.
        ConflictError: The reference was used with another key.
    """
    found = list(stored)
    same_key = [r for r in found if r.idempotency_key == refund.idempotency_key]
    for each in same_key:
        if each.fingerprint == refund.fingerprint:
            return each
    for each in same_key:
        raise IdempotencyMismatchError(
            f"the idempotency key was used for another request, refund {each.id}",
            refund_id=each.id,
        )
    for each in found:
        raise ConflictError(
            f"the reference already belongs to refund {each.id}", refund_id=each.id
        )
    return None
