"""What is stored when a refund is accepted."""

from dataclasses import dataclass

from signer.model.approval import Approval
from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.model.signed_request import SignedRequest


@dataclass(frozen=True, slots=True)
class Proposed:
    """A request to approve a refund, and its audit record."""

    approval: Approval
    record: Record


@dataclass(frozen=True, slots=True)
class Acceptance:
    """
    A new refund, and what is stored with it if it is inserted.

    ``record`` is the audit record of the acceptance, and ``signed`` the tenant's
    request.  ``answer`` is the response to the request; an empty one is still to come,
    and keeps workers from storing one.  ``max_open`` is how many open refunds the
    tenant may have, this one included.  ``proposed`` asks for the approval that the
    refund waits for.  ``is_restored``: it was accepted before the ledger was restored,
    so it is inserted even if its tenant is blocked now.
    """

    refund: Refund
    record: Record | None = None
    max_open: int | None = None
    signed: SignedRequest | None = None
    answer: str | None = None
    proposed: Proposed | None = None
    is_restored: bool = False


PENDING_ANSWER = ""
"""The answer of a refund whose request waits for its end."""
