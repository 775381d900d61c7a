"""
Rebroadcasts transactions that are not mined in time, or replaces them.

A replacement has higher fees, or is a no-op if the transfer must not be made any more.
It has lower fees or another gas limit if no node should accept the transaction as it is
(``Pricing.plan_repricing``).
It also detects that a transaction of another origin used the refund's nonce.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from signer.chain.chain import Chain
from signer.errors import (
    ApprovalRequiredError,
    BroadcastRejectedError,
    FeesAboveRecentError,
    HotWalletError,
    PolicyViolationError,
    ScreeningUnavailableError,
    SigningStoppedError,
)
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind, SignedTransaction
from signer.ports.chain import MinedTransaction
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.attempts import Attempts
from signer.refunds.broadcasts import broadcast
from signer.refunds.nonces import NonceManager, describe_earlier_payment
from signer.refunds.payload import payload_of
from signer.refunds.saved_steps import SavedSteps
from signer.refunds.step_outcomes import Outcomes
from signer.refunds.sweep_policy import Objection
from signer.refunds.transaction_signer import TransactionSigner


_NOT_NOW: tuple[type[HotWalletError], ...] = (
    ApprovalRequiredError,
    FeesAboveRecentError,
    PolicyViolationError,
    ScreeningUnavailableError,
    SigningStoppedError,
)
"""The errors that keep the fees of a transaction as they are."""


class PendingTransactions:
    """Rebroadcasts and replaces the transactions of broadcast refunds."""

    def __init__(
        self,
        store: Ledger,
        transaction_signer: TransactionSigner,
        attempts: Attempts,
        nonces: NonceManager,
        clock: Clock,
    ) -> None:
        self._store = store
        self._transaction_signer = transaction_signer
        self._attempts = attempts
        self._pricing = attempts.pricing
        self._nonces = nonces
        self._clock = clock
        self._saved_steps = SavedSteps(store, clock)

    def take_step(
        self, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
    ) -> None:
        """
        Replace or rebroadcast the latest transaction of each of *refunds*.

        Raises an error if the step failed for every refund.
        """
        senders = {refund.sender for refund in refunds if refund.sender is not None}
        counts = {each: chain.client.transaction_count(each) for each in senders}
        unmined = []
        for refund in refunds:
            with outcomes.capture(refund):
                step = self._settle_or_replace(refund, chain, counts)
                if isinstance(step, Refund):
                    outcomes[refund.id] = step
                else:
                    unmined.append((refund, step))
        self._rebroadcast(unmined, chain, outcomes)

    def handle_used_nonce(
        self, refund: Refund, chain: Chain, counted: int | None = None
    ) -> Refund | None:
        """
        Save what the chain shows if the refund's nonce is used, and return the refund.

        *counted* is the sender's transaction count, which is read if it is None.  Only
        a *final* transaction of another origin fails the refund: receipts may be late,
        and nodes may lag, for a long time.  Return None if the nonce is unused.
        """
        reserved = refund.reserved()
        sender, nonce = reserved.sender, reserved.nonce
        if counted is None:
            counted = chain.client.transaction_count(sender)
        if counted <= nonce:
            return None
        ours = {signed.tx_hash for signed in self._store.transactions(refund.id)}
        mined = chain.client.find_transaction(sender, nonce)
        if mined is None or mined.tx_hash in ours:
            return self._saved_steps.recheck_later(refund)
        if payload_of(refund).is_of(mined):
            return self._adopt(refund, mined)
        if not chain.is_final(mined):
            return self._saved_steps.recheck_later(refund)
        self._nonces.wallets.record_nonce_taken(refund, mined)
        return self._saved_steps.move(
            refund,
            Status.FAILED,
            failure_code="nonce-taken",
            failure_detail=f"transaction {mined.tx_hash} has the refund's nonce",
        )

    def _settle_or_replace(
        self, refund: Refund, chain: Chain, counts: Mapping[str, int]
    ) -> Refund | SignedTransaction:
        """Return *refund* after its step, or its transaction to send again."""
        sender = refund.reserved().sender
        settled = self.handle_used_nonce(refund, chain, counts[sender])
        if settled is not None:
            return settled
        signed = self._store.transactions(refund.id)
        if not signed:
            # Adopted after a restore from a backup, and removed by a reorganisation.
            return self._attempts.start(refund, chain)
        latest = signed[-1]
        is_transfer = latest.kind is Kind.TRANSFER
        objection = self._find_objection(refund, chain) if is_transfer else None
        if objection is not None:
            # The no-op competes with the transfer, which is not broadcast again.
            plan = self._pricing.plan_noop(refund, chain, latest, objection)
            return self._attempts.record(plan, chain)
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        # The absolute value, since a clock may have been set back.
        if abs(self._clock() - refund.moving.updated_at) < stuck_after:
            return latest
        is_next = counts[sender] == latest.nonce
        return self._replace_stuck(refund, chain, latest, is_next=is_next) or latest

    def _rebroadcast(
        self,
        unmined: Sequence[tuple[Refund, SignedTransaction]],
        chain: Chain,
        outcomes: Outcomes,
    ) -> None:
        # Nodes drop transactions.  Sending the same bytes again cannot pay twice.  Some
        # nodes accept no nonce before the lower ones.
        unmined = sorted(unmined, key=lambda each: each[1].nonce)
        errors = broadcast([latest for _, latest in unmined], chain)
        sent = []
        for (refund, latest), error in zip(unmined, errors, strict=True):
            with outcomes.capture(refund):
                plan = None
                if isinstance(error, BroadcastRejectedError):
                    plan = self._pricing.plan_repricing(refund, chain, latest)
                if plan is not None:
                    outcomes[refund.id] = self._attempts.record(plan, chain)
                elif error is not None:
                    raise error
                else:
                    sent.append(refund)
        self._saved_steps.recheck_all_later(sent, outcomes)

    def _find_objection(self, refund: Refund, chain: Chain) -> Objection | None:
        tx_hash = self._nonces.find_other_payment(refund)
        if tx_hash is not None:
            return describe_earlier_payment(tx_hash, chain)
        objection = self._transaction_signer.find_sweep_objection(refund)
        return objection or self._nonces.find_token_objection(refund)

    def _replace_stuck(
        self, refund: Refund, chain: Chain, latest: SignedTransaction, *, is_next: bool
    ) -> Refund | None:
        """Sign again with better fees; None if that does not help, or at the cap."""
        base_fee = self._pricing.current_fees(chain).base_fee or 0
        waits = not is_next or self._became_next_lately(latest, chain)
        if waits and latest.max_fee_per_gas >= base_fee:
            return None  # It waits for lower nonces, not for higher fees.
        # A node that reports success may hide that the others reject it for good.
        try:
            self._nonces.require_running(refund)
            plan = self._pricing.plan_repricing(
                refund, chain, latest
            ) or self._pricing.plan_higher_fees(refund, chain, latest)
            return None if plan is None else self._attempts.record(plan, chain)
        except _NOT_NOW:
            return None  # The same bytes are sent again until a signature may follow.

    def _became_next_lately(self, latest: SignedTransaction, chain: Chain) -> bool:
        """Return whether the nonce below was mined so lately that *latest* may be."""
        below = self._store.find_nonce(latest.chain_id, latest.sender, latest.nonce - 1)
        moves = () if below is None else self._store.history(below.id)
        mined = [move.at for move in moves if move.status is Status.MINED]
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        return any(abs(self._clock() - at) < stuck_after for at in mined)

    def _adopt(self, refund: Refund, mined: MinedTransaction) -> Refund:
        """Return the refund as mined by a transaction that the ledger has lost."""
        return self._saved_steps.move(
            refund,
            Status.MINED,
            tx_hash=mined.tx_hash,
            block_number=mined.block.number,
            block_hash=mined.block.hash,
            failure_code=None,  # Clears the reason of a no-op that was not mined.
            failure_detail=None,
        )
