"""
Approvals of large refunds: they are paid once an administrator has agreed.

The proposal is stored with the refund, and names everything that the refund pays.  Its
row decides, and the refund follows: a step first changes the row, and then the refund.
So a process may die between the two, and the next one completes the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from signer.alerts import Alert, Alerts
from signer.approvals import SHOWN_DIGITS, VALID_FOR, ApprovalChanges
from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.config.networks import NOOP_GAS, Network
from signer.crypto.transactions import MAX_GAS, SignedBytes
from signer.errors import ApprovalRequiredError, HotWalletError, RowNotAuthenticError
from signer.model.acceptance import ProposedApproval
from signer.model.approval import REFUND_PAY, Approval, ApprovalState, Proposal
from signer.model.audit_record import WORKER, Actor
from signer.model.decision import ApprovalNeed, Decision
from signer.model.payment import PaymentPurpose
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind, SignedTransaction, Transaction
from signer.policy.default_rules import AMOUNT_NEED
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.payload import pays_by
from signer.refunds.payment_checks import ZERO_ADDRESS
from signer.refunds.payment_policy import PaymentPolicy
from signer.refunds.sweep_policy import Objection, build_objection
from signer.refunds.transaction_signer import (
    Attempt,
    build_transaction,
    describe_payment,
    expect,
)


_OBJECTIONS = {
    ApprovalState.REJECTED: ("approval-rejected", "an administrator rejected it"),
    ApprovalState.EXPIRED: ("approval-expired", "it was not approved in time"),
}


_APPROVED = frozenset({ApprovalState.APPROVED, ApprovalState.DONE})


# What counts first, if a refund has several proposals: the rules changed meanwhile.
_ORDER = (
    ApprovalState.REJECTED,
    ApprovalState.DONE,
    ApprovalState.APPROVED,
    ApprovalState.WAITING,
    ApprovalState.EXPIRED,
)


def build_proposal(refund: Refund, need: ApprovalNeed) -> Proposal:
    """
    Return the proposal to pay *refund*; only permanent columns are in it.

    It names the rules of the policy that demand it, so that an approval is not one of
    what other rules demand later.
    """
    facts = {
        **describe_payment(refund),
        # As text: JSON has no integers of 64 bits.
        "chain_id": str(refund.chain_id),
        "network": refund.network,
        "reference": refund.reference,
        "refund_id": refund.id,
        **need.facts,
    }
    return Proposal(REFUND_PAY, facts)


def is_approved(store: Ledger, refund: Refund, need: ApprovalNeed) -> bool:
    """Return whether people have approved *refund* as *need* demands."""
    found = _choose(refund, need, None, store.approvals_of(refund.id))
    return found is not None and found.is_authentic and found.state in _APPROVED


def find_objection(approval: Approval) -> Objection | None:
    """Return why a refund ends after the decision *approval*; None if it does not."""
    reason = _OBJECTIONS.get(approval.state)
    return None if reason is None else build_objection(*reason)


def decide(policy: PaymentPolicy, refund: Refund, network: Network) -> Decision:
    """
    Return the decision about the transaction that would pay *refund*.

    Nothing has been estimated yet, so it has the largest gas limit of the token, a call
    the smallest one, and no fees.  The policy is asked again about the real one, before
    the nonce and before the signature.
    """
    token = network.tokens.get(refund.token)
    gas = MAX_GAS if token is None else token.max_gas
    if refund.purpose is PaymentPurpose.CALL:
        gas = NOOP_GAS  # The largest one would exceed the limit of any rule.
    sender = refund.sender or policy.active_address or ZERO_ADDRESS
    attempt = Attempt(Kind.TRANSFER, 0, gas, 0, 0, is_legacy=False)
    expected = expect(refund, sender, gas)
    built = build_transaction(expected, attempt, network)
    is_reserved = refund.nonce is not None
    return policy.evaluate(
        built,
        built.signing_digest(),
        expected,
        network,
        is_reserved=is_reserved,
    )


@dataclass(eq=False, repr=False)
class PaymentApprovals:
    """
    Asks for the approvals of refunds, and follows the decisions.

    Every method raises ``StoreError`` if the ledger does not answer.
    """

    store: Ledger
    audit: AuditLog
    alerts: Alerts
    clock: Clock
    policy: PaymentPolicy

    def __post_init__(self) -> None:
        self._changes = ApprovalChanges(self.store, self.audit, self.clock)

    def propose(
        self,
        refund: Refund,
        actor: Actor,
        now: datetime,
        need: ApprovalNeed,
    ) -> ProposedApproval:
        """Return the request of *actor* to approve *refund*; store nothing."""
        approval = Approval.of(
            build_proposal(refund, need),
            reason="",
            requested_by=actor.name,
            at=now,
            expires_at=now + VALID_FOR,
            refund_id=refund.id,
        )
        request = AuditAction.APPROVAL_REQUEST
        return ProposedApproval(approval, self._changes.draft(request, approval, actor))

    def announce(self, proposed: ProposedApproval, tenant: str) -> None:
        """Log a stored request, and alert; once in a while for each *tenant*."""
        self.audit.log(proposed.record)
        self._alert(proposed.approval, tenant)

    def _alert(self, approval: Approval, tenant: str) -> None:
        self.alerts.remind(
            Alert.APPROVAL_REQUESTED,
            tenant,
            action=approval.action,
            actor=approval.requested_by,
            digest=approval.digest[:SHOWN_DIGITS],
        )

    def find_need(self, refund: Refund, network: Network) -> ApprovalNeed | None:
        """
        Return the approvals that *refund* needs; None if it needs none.

        A sweep pays an address of the wallet, and is requested by an administrator: the
        policy refuses one that would need an approval.
        """
        if refund.bound_sender is not None or not self.policy.policy.has_approvals:
            return None
        return decide(self.policy, refund, network).need

    def settle(self, refund: Refund, need: ApprovalNeed) -> Approval:
        """
        Return what was decided about *refund*, which needs the approvals of *need*.

        The state is ``done`` if it may be paid.  An approval of more rules counts, and
        a rejection of any.  A new proposal is stored if there is none: the rules, or
        the amounts that they compare, changed after the acceptance.  An approval that
        approvers with keys have not signed is asked for again: a key was removed, or a
        host that has the MAC key wrote the row.

        Raises:
            RowNotAuthenticError: Another program changed the approval.
            StaleStateError: Another process changes it.
        """
        now = self.clock()
        exact = self.store.find_approval(build_proposal(refund, need).digest)
        others = self.store.approvals_of(refund.id)
        found = _choose(refund, need, exact, others)
        if found is None:
            return self._propose_again(refund, need, others, now)
        if not found.is_authentic:
            return self._settle_forged(refund, found, now)
        if found.is_expired(now):
            expired, action = ApprovalState.EXPIRED, AuditAction.APPROVAL_EXPIRE
            return self._changes.move(found, expired, action, WORKER)
        if found.state in _APPROVED and not self._is_signed(found):
            return self._ask_again(found, refund.tenant, now)
        if found.state is ApprovalState.APPROVED:
            done, action = ApprovalState.DONE, AuditAction.APPROVAL_USE
            return self._changes.move(found, done, action, WORKER)
        return found

    def withdraw(self, refund: Refund) -> None:
        """Close the proposal of *refund*, which ends without a decision."""
        for found in self.store.approvals_of(refund.id):
            if found.is_unused(self.clock()):
                rejected, action = ApprovalState.REJECTED, AuditAction.APPROVAL_REJECT
                why = "the refund ended meanwhile"
                self._changes.move(found, rejected, action, WORKER.because(why))

    def require_signable(
        self, transaction: Transaction, payment: Refund, need: ApprovalNeed
    ) -> None:
        """
        Require that *payment* of *transaction*, which demands *need*, may be signed.

        The amount alone keeps no replacement of a signed transfer back: at most one of
        the two is mined, and all higher nonces wait for it.  A nonce or a status proves
        nothing, since a program that can write rows can set them; the bytes do.

        Raises:
            ApprovalRequiredError: It needs an approval, and has none.
            RowNotAuthenticError, StaleStateError: As ``settle``.
        """
        if need == AMOUNT_NEED and any(
            _signs(transaction, each) for each in self.store.attempts(transaction)
        ):
            return
        self.require_approved(payment, need)

    def require_approved(self, refund: Refund, need: ApprovalNeed) -> Approval:
        """
        Return the approval of *refund*, which people gave as *need* demands.

        Raises:
            ApprovalRequiredError: They did not.
            RowNotAuthenticError, StaleStateError: As ``settle``.
        """
        approval = self.settle(refund, need)
        self.require_done(approval)
        return approval

    def require_done(self, approval: Approval) -> None:
        """Raise ``ApprovalRequiredError`` unless *approval* lets a refund be paid."""
        if approval.state is not ApprovalState.DONE:
            raise ApprovalRequiredError(
                "another administrator must approve the refund first: `hotwallet"
                f" approvals approve {approval.digest[:SHOWN_DIGITS]}`",
                digest=approval.digest,
                expires_at=approval.expires_at,
            )

    def _propose_again(
        self,
        refund: Refund,
        need: ApprovalNeed,
        others: Sequence[Approval],
        now: datetime,
    ) -> Approval:
        """Store the proposal of a worker, and end *others*, which do not count."""
        for each in others:
            if each.is_unused(now):
                expired, action = ApprovalState.EXPIRED, AuditAction.APPROVAL_EXPIRE
                why = "other rules demand an approval now"
                self._changes.move(each, expired, action, WORKER.because(why))
        proposed = self.propose(refund, WORKER, now, need)
        self.store.put_approval(None, proposed.approval, proposed.record)
        self.announce(proposed, refund.tenant)
        return proposed.approval

    def _is_signed(self, approval: Approval) -> bool:
        approvers = self.policy.approvers
        return approvers is None or approvers.accepts(approval)

    def _ask_again(self, before: Approval, tenant: str, now: datetime) -> Approval:
        why = "its signatures do not count: sign it with keys of APPROVERS_FILE"
        new = replace(
            before,
            state=ApprovalState.WAITING,
            reason=why,
            signatures=None,
            decided_by=None,
            decided_at=None,
            expires_at=now + VALID_FOR,
        )
        asked = self._changes.ask(before, new, WORKER.because(why))
        self._alert(asked, tenant)
        return asked

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


def _choose(
    refund: Refund,
    need: ApprovalNeed,
    exact: Approval | None,
    others: Sequence[Approval],
) -> Approval | None:
    """
    Return which proposal to pay *refund* decides about *need*; None without one.

    *exact* has exactly its rules.  The column that names the refund of *others* is not
    trusted: their digests must be those of this payment.
    """
    if exact is not None and not exact.is_authentic:
        return exact
    found = [] if exact is None else [exact]
    for each in others:
        covered = each.need
        if covered is None or build_proposal(refund, covered).digest != each.digest:
            continue
        if covered.covers(need) or each.state is ApprovalState.REJECTED:
            found.append(each)
    return min(found, key=lambda each: _ORDER.index(each.state), default=None)


def _signs(transaction: Transaction, attempt: SignedTransaction) -> bool:
    """Return whether *attempt* pays, and the key of *transaction* has signed it."""
    try:
        signed = SignedBytes.decode(attempt.raw)
        key = signed.signature.recover(signed.transaction.signing_digest())
    except HotWalletError:
        return False
    sent = signed.transaction
    wallet = sent.chain_id, key.address, sent.nonce
    own = transaction.chain_id, transaction.sender, transaction.nonce
    return wallet == own and pays_by(transaction, sent)
