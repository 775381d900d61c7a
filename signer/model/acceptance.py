"""What is stored when a refund is accepted."""

from dataclasses import dataclass

from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.model.signed_request import SignedRequest


@dataclass(frozen=True, slots=True)
class Acceptance:
    """
    A new refund, and what is stored with it if it is inserted.

    ``record`` is the audit record of the acceptance, and ``signed`` the tenant's
    request.  ``answer`` is the response to the request; an empty one is still to come,
    and keeps workers from storing one.  ``max_open`` is how many open refunds the
    tenant may have, this one included.
    """

    refund: Refund
    record: Record | None = None
    max_open: int | None = None
    signed: SignedRequest | None = None
    answer: str | None = None


PENDING_ANSWER = ""
"""The answer of a refund whose request waits for its end."""
