"""
Signs a reserved refund for the first time.

One that this process has just reserved is signed at once.  For any other, what was
checked at the reservation is checked again, and a no-op consumes the nonce of one that
must not be paid any more: otherwise all higher nonces would wait without end.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from signer.chain.chain import Chain
from signer.errors import ExecutionRevertedError
from signer.model.refund import PaymentPurpose, Refund
from signer.model.transaction import Kind
from signer.ports.clock import Clock
from signer.refunds.attempts import Attempts
from signer.refunds.gas import bound_gas, estimate_gas
from signer.refunds.nonces import NonceManager, describe_earlier_payment
from signer.refunds.payment_approvals import PaymentApprovals, find_objection
from signer.refunds.pending_transactions import PendingTransactions
from signer.refunds.step_outcomes import Outcomes
from signer.refunds.sweep_policy import build_objection


SIMULATION_VALID_FOR = timedelta(seconds=10)
"""How long a successful simulation of a transfer is trusted."""


class FirstSignatures:
    """Signs and records the first attempt of transactions."""

    def __init__(
        self,
        nonces: NonceManager,
        approvals: PaymentApprovals,
        *,
        attempts: Attempts,
        pending: PendingTransactions,
        clock: Clock,
    ) -> None:
        self._nonces = nonces
        self._approvals = approvals
        self._attempts = attempts
        self._pending = pending
        self._clock = clock

    def sign(self, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes) -> None:
        """Sign *refunds*; raises an error if the step failed for every refund."""
        just_reserved = []
        for refund in refunds:
            age = self._clock() - refund.moving.updated_at
            is_fresh = timedelta(0) <= age <= SIMULATION_VALID_FOR
            is_checked = refund.intent is not None or (
                self._approvals.find_need(refund, chain.network) is None
            )
            if is_fresh and is_checked:
                just_reserved.append(refund)
            else:
                with outcomes.capture(refund):
                    outcomes[refund.id] = self._sign_late(refund, chain)
        self._attempts.start_all(just_reserved, chain, outcomes)

    def _sign_late(self, refund: Refund, chain: Chain) -> Refund:
        # Nonce, token and key may have changed since.  The key may have been revoked
        # after its intent to sign was recorded, so record a new one.
        refund = replace(refund, intent=None)
        settled = self._pending.handle_used_nonce(refund, chain)
        if settled is not None:
            return settled
        # A ledger that was restored from before the key was revoked has lost that the
        # refund got another nonce.
        self._nonces.require_other_wallets_known(
            chain, str(refund.sender), if_restored=True
        )
        tx_hash = self._nonces.find_other_payment(refund)
        if tx_hash is not None:
            reason = describe_earlier_payment(tx_hash, chain)
            return self._attempts.start(refund, chain, Kind.NOOP, **reason)
        need = self._approvals.find_need(refund, chain.network)
        if need is not None:
            # Its approval became necessary, or was decided, after the reservation.
            objection = find_objection(self._approvals.settle(refund, need))
            if objection is not None:
                return self._attempts.start(refund, chain, Kind.NOOP, **objection)
        try:
            estimate = estimate_gas(refund, chain, str(refund.sender))
        except ExecutionRevertedError as e:
            reason = build_objection(e.code, str(e))
            return self._attempts.start(refund, chain, Kind.NOOP, **reason)
        if refund.purpose is PaymentPurpose.CALL:
            # After a restore, the reserved limit is the largest one of any call.
            gas = bound_gas(estimate, refund, chain)
            return self._attempts.start(refund, chain, largest_gas=gas)
        return self._attempts.start(refund, chain)
