"""
Approvals of large refunds: they are paid once an administrator has agreed.

The proposal is stored with the refund, and names everything that the refund pays.  Its
row decides, and the refund follows: a step first changes the row, and then the refund.
So a process may die between the two, and the next one completes the step.
"""

from dataclasses import replace
from datetime import datetime

from signer.alerts import Alert, Alerts, AlertThrottle
from signer.approval_changes import ApprovalChanges
from signer.approvals import VALID_FOR
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.crypto.transactions import SignedBytes
from signer.errors import ApprovalRequiredError, HotWalletError, RowNotAuthenticError
from signer.model.acceptance import Proposed
from signer.model.approval import Approval, ApprovalState, Proposal
from signer.model.audit_record import WORKER, Actor
from signer.model.refund import Refund, SignedTransaction, Status
from signer.open_approvals import SHOWN_DIGITS
from signer.ports import Clock, Store
from signer.refunds.policy import needs_approval
from signer.refunds.sweep_policy import Objection, build_objection
from signer.refunds.transaction_signer import describe_payment, encode_refund


ACTION = "refund-pay"
"""The action of the proposals."""

_OBJECTIONS = {
    ApprovalState.REJECTED: ("approval-rejected", "an administrator rejected it"),
    ApprovalState.EXPIRED: ("approval-expired", "it was not approved in time"),
}


def build_proposal(refund: Refund) -> Proposal:
    """Return the proposal to pay *refund*; only permanent columns are in it."""
    facts = {
        **describe_payment(refund),
        # As text: JSON has no integers of 64 bits.
        "chain_id": str(refund.chain_id),
        "network": refund.network,
        "reference": refund.reference,
        "refund_id": refund.id,
    }
    return Proposal(ACTION, facts)


def find_objection(approval: Approval) -> Objection | None:
    """Return why a refund ends after the decision *approval*; None if it does not."""
    reason = _OBJECTIONS.get(approval.state)
    return None if reason is None else build_objection(*reason)


class PaymentApprovals:
    """
    Asks for the approvals of refunds, and follows the decisions.

    Every method raises ``StoreError`` if the ledger does not answer.
    """

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        alerts: Alerts,
        clock: Clock,
        tenants: TenantRegistry,
    ) -> None:
        self._store = store
        self._audit = audit
        self._alerts = alerts
        self._clock = clock
        self._tenants = tenants
        self._changes = ApprovalChanges(store, audit, clock)
        self._throttle = AlertThrottle()

    def propose(self, refund: Refund, actor: Actor, now: datetime) -> Proposed:
        """Return the request of *actor* to approve *refund*; store nothing."""
        approval = Approval.of(
            build_proposal(refund),
            reason="",
            requested_by=actor.name,
            at=now,
            expires_at=now + VALID_FOR,
            refund_id=refund.id,
        )
        request = AuditAction.APPROVAL_REQUEST
        return Proposed(approval, self._changes.draft(request, approval, actor))

    def announce(self, proposed: Proposed, tenant: str) -> None:
        """Log a stored request, and alert; once in a while for each *tenant*."""
        self._audit.log(proposed.record)
        approval = proposed.approval
        if self._throttle.is_due(Alert.APPROVAL_REQUESTED, tenant):
            self._alerts.sound(
                Alert.APPROVAL_REQUESTED,
                action=approval.action,
                actor=approval.requested_by,
                digest=approval.digest[:SHOWN_DIGITS],
            )

    def is_needed(self, refund: Refund, network: Network) -> bool:
        """Return whether *refund* may only be paid after an approval."""
        limits = self._tenants.limits(refund.tenant)
        return needs_approval(refund, network, limits)

    def settle(self, refund: Refund) -> Approval:
        """
        Return what was decided about *refund*, which needs an approval.

        The state is ``done`` if it may be paid.  A new proposal is stored if there is
        none: the amount that needs no approval was lowered after the acceptance.

        Raises:
            RowNotAuthenticError: Another program changed the approval.
            StaleStateError: Another process changes it.
        """
        found = self._store.find_approval(build_proposal(refund).digest)
        now = self._clock()
        if found is None:
            proposed = self.propose(refund, WORKER, now)
            self._store.put_approval(None, proposed.approval, proposed.record)
            self.announce(proposed, refund.tenant)
            return proposed.approval
        if not found.is_authentic:
            return self._settle_forged(refund, found, now)
        if found.is_expired(now):
            expired, action = ApprovalState.EXPIRED, AuditAction.APPROVAL_EXPIRE
            return self._changes.move(found, expired, action, WORKER)
        if found.state is ApprovalState.APPROVED:
            done, action = ApprovalState.DONE, AuditAction.APPROVAL_USE
            return self._changes.move(found, done, action, WORKER)
        return found

    def withdraw(self, refund: Refund) -> None:
        """Close the proposal of *refund*, which ends without a decision."""
        found = self._store.find_approval(build_proposal(refund).digest)
        if found is not None and found.is_unused(self._clock()):
            rejected, action = ApprovalState.REJECTED, AuditAction.APPROVAL_REJECT
            why = "the refund ended meanwhile"
            self._changes.move(found, rejected, action, WORKER, why)

    def require(self, refund: Refund, network: Network) -> None:
        """
        Require that a transfer of *refund* may be signed.

        A nonce proves nothing: a program that can write rows can assign one.  A
        replacement of a transfer that was signed before needs no approval: at most one
        of the two is mined.

        Raises:
            ApprovalRequiredError: It needs an approval, and has none.
            RowNotAuthenticError, StaleStateError: As ``settle``.
        """
        # The process that reserved the nonce verified the approval in that transaction.
        if refund.intent is not None or not self.is_needed(refund, network):
            return
        if any(_signs(refund, each) for each in self._store.transactions(refund.id)):
            return
        self.require_done(self.settle(refund))

    def require_done(self, approval: Approval) -> None:
        """Raise ``ApprovalRequiredError`` unless *approval* lets a refund be paid."""
        if approval.state is not ApprovalState.DONE:
            raise ApprovalRequiredError(
                "another administrator must approve the refund first: `hotwallet"
                f" approvals approve {approval.digest[:SHOWN_DIGITS]}`",
                digest=approval.digest,
                expires_at=approval.expires_at,
            )

    def _settle_forged(
        self, refund: Refund, found: Approval, now: datetime
    ) -> Approval:
        """Return the forged row *found* as expired, once the refund waited so long."""
        is_waiting = refund.status is Status.AWAITING_APPROVAL
        if is_waiting and now >= refund.updated_at + VALID_FOR:
            return replace(found, state=ApprovalState.EXPIRED)
        raise RowNotAuthenticError(
            f"the approval of the refund {refund.id} has no valid MAC: another program"
            " changed it, or MAC_KEY_FILE has other keys"
        )


def _signs(refund: Refund, transaction: SignedTransaction) -> bool:
    """Return whether *transaction* is a transfer that the refund's key has signed."""
    try:
        signed = SignedBytes.decode(transaction.raw)
        key = signed.signature.recover(signed.transaction.signing_digest())
    except HotWalletError:
        return False
    sent = signed.transaction
    wallet = sent.chain_id, key.address, sent.nonce
    is_of_wallet = wallet == (refund.chain_id, refund.sender, refund.nonce)
    return is_of_wallet and sent.data == encode_refund(refund)
