"""What is stored when a refund is accepted."""

from dataclasses import dataclass

from signer.model.approval import Approval
from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.model.signed_request import SignedRequest


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
