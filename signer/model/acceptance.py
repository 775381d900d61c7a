"""What is stored when a refund is accepted, and which one a request repeats."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from signer.errors import ConflictError, IdempotencyMismatchError
from signer.model.approval import Approval
from signer.model.audit_record import Record
from signer.model.refund import Refund
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


@dataclass(frozen=True, slots=True)
class ProposedApproval:
    """A request to approve a refund, and its audit record."""

    approval: Approval
    record: Record


@dataclass(frozen=True, slots=True)
class Acceptance:
    """
    A new refund, and what is stored with it if it is inserted.

    ``record`` is the audit record of the acceptance, and ``signed`` the tenant's
    request.  ``max_open`` is how many open refunds the tenant may have, this one
    included.  ``proposed`` asks for the approval that the refund waits for.
    ``is_restored``: it was accepted before the ledger was restored, so it is inserted
    even if its tenant is blocked now.
    """

    refund: Refund
    record: Record | None = None
    max_open: int | None = None
    signed: SignedRequest | None = None
    proposed: ProposedApproval | None = None
    is_restored: bool = False


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
