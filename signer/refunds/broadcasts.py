"""Sends the signed transactions of a batch, and records that they were sent."""

from collections.abc import Sequence
from datetime import timedelta

from signer.chain.chain import Chain
from signer.errors import BroadcastRejectedError, ChainError
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind, SignedTransaction
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change
from signer.refunds.attempts import Attempts
from signer.refunds.nonces import NonceManager
from signer.refunds.saved_steps import (
    REBROADCAST_AFTER,
    SavedSteps,
    delay_after,
    is_just_committed,
)
from signer.refunds.step_outcomes import Outcomes
from signer.refunds.transaction_signer import TransactionSigner


# A node that answers so may have another transaction of this nonce in its pool or in a
# block.  Only the chain decides which; the refund never gets another nonce.
_INCONCLUSIVE = frozenset({"nonce-too-low", "underpriced"})


class Broadcasts:
    """Takes signed refunds to the network."""

    def __init__(
        self,
        store: Ledger,
        nonces: NonceManager,
        transaction_signer: TransactionSigner,
        *,
        attempts: Attempts,
        clock: Clock,
    ) -> None:
        self._nonces = nonces
        self._transaction_signer = transaction_signer
        self._attempts = attempts
        self._clock = clock
        self._saved_steps = SavedSteps(store, clock)

    def send(self, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes) -> None:
        """
        Broadcast the latest transaction of each of *refunds*.

        Raises an error if the step failed for every refund.
        """
        now = self._clock()
        late = [each for each in refunds if not is_just_committed(each, now)]
        if late:
            # Some bytes were never sent: a stop keeps them back as well.
            self._nonces.require_running(late[0])
        latest = self._attempts.latest(refunds)
        changes = []
        sending = []
        for refund, transaction in zip(refunds, latest, strict=True):
            with outcomes.capture(refund):
                is_transfer = transaction.kind is Kind.TRANSFER
                if is_transfer and (
                    self._transaction_signer.find_sweep_objection(refund)
                    or (refund in late and self._nonces.find_token_objection(refund))
                ):
                    # Do not send it; the next step replaces it with a no-op.
                    changes.append(self._sent(refund, timedelta(0)))
                else:
                    sending.append((refund, transaction))
        errors = broadcast([transaction for _, transaction in sending], chain)
        results = list(zip(sending, errors, strict=True))
        for (refund, _), error in results:
            with outcomes.capture(refund):
                if error is None:
                    changes.append(self._sent(refund, _first_delay(chain)))
        self._saved_steps.save_all(changes, outcomes)
        # Last: a rejection takes several requests, for which the others do not wait.
        changes = []
        for (refund, transaction), error in results:
            with outcomes.capture(refund):
                if error is not None:
                    delay = self._delay(refund, transaction, chain, error)
                    changes.append(self._sent(refund, delay))
        self._saved_steps.save_all(changes, outcomes)

    def _sent(self, refund: Refund, delay: timedelta) -> Change:
        now = self._clock()
        after = refund.with_status(Status.BROADCAST, now, due_at=now + delay)
        return Change(refund, after)

    def _delay(
        self,
        refund: Refund,
        transaction: SignedTransaction,
        chain: Chain,
        error: ChainError,
    ) -> timedelta:
        """Return when *transaction* is signed again; raise *error* if it is not."""
        is_rejected = isinstance(error, BroadcastRejectedError)
        pricing = self._attempts.pricing
        if not is_rejected or (
            pricing.plan_repricing(refund, chain, transaction) is None
        ):
            raise error
        # The next step signs it again.  A node that rejects everything must not cause
        # one signature after another.
        return delay_after(transaction.attempt)


def _first_delay(chain: Chain) -> timedelta:
    """Return when a transaction that was sent is looked at."""
    stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
    return min(REBROADCAST_AFTER, stuck_after)


def broadcast(
    transactions: Sequence[SignedTransaction], chain: Chain
) -> Sequence[ChainError | None]:
    """
    Send *transactions*; return the error for each that no node accepted.

    A rejection because of its nonce is no error.
    """
    if not transactions:
        return ()
    errors = chain.client.broadcast_all([each.raw for each in transactions])
    return [None if _is_inconclusive(error) else error for error in errors]


def _is_inconclusive(error: ChainError | None) -> bool:
    return isinstance(error, BroadcastRejectedError) and error.reason in _INCONCLUSIVE
