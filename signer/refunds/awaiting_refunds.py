"""Takes refunds that await an approval into the queue, or ends them."""

from collections.abc import Sequence

from signer.chain.chain import Chain
from signer.model.approval import ApprovalState
from signer.model.approval_need import ApprovalNeed
from signer.model.payment import PaymentState
from signer.model.refund import Refund
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.endings import Ending, Endings
from signer.refunds.payment_approvals import PaymentApprovals, find_objection
from signer.refunds.saved_steps import SavedSteps
from signer.refunds.step_outcomes import Outcomes


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
