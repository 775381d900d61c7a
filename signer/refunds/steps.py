"""The parts that take the steps of refunds and of transactions, put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.model.approval import ApprovalState
from signer.model.decision import ApprovalNeed
from signer.model.payment import PaymentState
from signer.model.refund import Refund
from signer.model.transaction import Transaction, TransactionStatus
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.attempts import Attempts
from signer.refunds.broadcasts import Broadcasts
from signer.refunds.first_signatures import FirstSignatures
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.nonce_checks import NonceManager
from signer.refunds.payment_approvals import PaymentApprovals, find_objection
from signer.refunds.pending_transactions import PendingTransactions
from signer.refunds.queued_refunds import Ending, Endings, QueuedRefunds
from signer.refunds.saved_steps import Outcomes, SavedSteps
from signer.refunds.signed_requests import SignedRequests
from signer.refunds.transaction_signer import TransactionSigner


class AwaitingRefunds:
    """Follows what administrators decided about refunds."""

    def __init__(
        self,
        store: Ledger,
        approvals: PaymentApprovals,
        endings: Endings,
        clock: Clock,
    ) -> None:
        self._approvals = approvals
        self._endings = endings
        self._saved_steps = SavedSteps(store, clock)

    def take_step(
        self, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
    ) -> None:
        """
        Queue or end each of *refunds*, which are of one chain, or leave it waiting.

        Raises an error if the step failed for every refund.
        """
        endings: list[Ending] = []
        for refund in refunds:
            with outcomes.capture(refund):
                if refund.cancel_requested_at is not None:
                    self._approvals.withdraw(refund)
                    endings.append((refund, None))
                    continue
                need = self._approvals.find_need(refund, chain.network)
                # What waits is decided by people, also if nothing demands it now.
                approval = self._approvals.settle(refund, need or ApprovalNeed())
                objection = find_objection(approval)
                if objection is not None:
                    endings.append((refund, objection))
                elif approval.state is ApprovalState.DONE:
                    outcomes[refund.id] = self._saved_steps.move(
                        refund, PaymentState.QUEUED
                    )
                else:
                    outcomes[refund.id] = refund
        self._endings.end_all(endings, chain, outcomes)


@dataclass(frozen=True, slots=True)
class Steps:
    """What takes the next step of refunds by their state, or of transactions."""

    payments: Mapping[PaymentState, Callable[[Sequence[Refund], Chain, Outcomes], None]]
    transactions: Mapping[
        TransactionStatus, Callable[[Sequence[Transaction], Chain, Outcomes], None]
    ]


def build_steps(
    store: Ledger,
    transaction_signer: TransactionSigner,
    nonces: NonceManager,
    clock: Clock,
    *,
    audit: AuditLog,
    alerts: Alerts,
    signed_requests: SignedRequests,
) -> Steps:
    gas_price_check = GasPriceCheck(store, alerts, clock)
    policy = transaction_signer.policy
    approvals = PaymentApprovals(store, audit, alerts, clock, policy)
    attempts = Attempts(store, transaction_signer, gas_price_check, clock, approvals)
    endings = Endings(store, nonces, audit, clock)
    awaiting = AwaitingRefunds(store, approvals, endings, clock)
    queued = QueuedRefunds(
        store,
        nonces,
        transaction_signer,
        attempts=attempts,
        approvals=approvals,
        endings=endings,
        alerts=alerts,
        clock=clock,
    )
    pending = PendingTransactions(store, transaction_signer, attempts, nonces, clock)
    signatures = FirstSignatures(
        nonces,
        approvals,
        attempts=attempts,
        pending=pending,
        signed_requests=signed_requests,
        clock=clock,
    )
    broadcasts = Broadcasts(
        store, nonces, transaction_signer, attempts=attempts, clock=clock
    )
    return Steps(
        {
            PaymentState.AWAITING_APPROVAL: awaiting.take_step,
            PaymentState.QUEUED: queued.take_step,
        },
        {
            TransactionStatus.RESERVED: signatures.sign,
            TransactionStatus.SIGNED: broadcasts.send,
            TransactionStatus.BROADCAST: pending.take_step,
        },
    )
