"""Ends refunds that have no nonce, unless the chain shows that they are paid."""

from collections.abc import Sequence

from signer.audit.actions import AuditAction
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.model.audit_record import WORKER, Operation, Record
from signer.model.payment import PaymentState
from signer.model.refund import Refund
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.nonces import NonceManager
from signer.refunds.saved_steps import Outcomes, SavedSteps
from signer.refunds.sweep_policy import Objection
from signer.refunds.transaction_signer import describe_refund


Ending = tuple[Refund, Objection | None]
"""A refund, and why it is refused; None: its tenant cancels it."""


class Endings:
    """Cancels refunds, and refuses those that an administrator did not approve."""

    def __init__(
        self, store: Ledger, nonces: NonceManager, audit: AuditLog, clock: Clock
    ) -> None:
        self._nonces = nonces
        self._audit = audit
        self._saved_steps = SavedSteps(store, clock)

    def end_all(
        self, endings: Sequence[Ending], chain: Chain, outcomes: Outcomes
    ) -> None:
        """
        End refunds of one chain, except those that the chain shows to be paid.

        A ledger that was restored from a backup may have lost the payments.
        """
        if not endings:
            return
        active = self._nonces.select_key(endings[0][0])
        counted = chain.client.pending_count(active.key.address)
        self._nonces.check_against_chain(chain, active.key.address, counted)
        for refund, objection in endings:
            with outcomes.capture(refund):
                adopted = self._nonces.adopt_earlier_payment(refund, chain)
                outcomes[refund.id] = adopted or self._end(refund, objection)

    def refuse(self, refund: Refund, objection: Objection) -> Refund:
        """Save that *refund* is refused because of *objection*, and return it."""
        code = objection["failure_code"]
        record = self._draft(AuditAction.REFUND_REFUSE, refund, code=code)
        refused = self._saved_steps.move(
            refund, PaymentState.REFUSED, record=record, **objection
        )
        self._audit.log(record)
        return refused

    def _end(self, refund: Refund, objection: Objection | None) -> Refund:
        if objection is not None:
            return self.refuse(refund, objection)
        record = self._draft(AuditAction.REFUND_CANCEL, refund)
        cancelled = self._saved_steps.move(
            refund, PaymentState.CANCELLED, record=record
        )
        self._audit.log(record)
        return cancelled

    def _draft(self, action: AuditAction, refund: Refund, **details: str) -> Record:
        return self._audit.result(
            action, Operation.REFUND, WORKER, **describe_refund(refund), **details
        )
