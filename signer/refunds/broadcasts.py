"""Sends the signed transactions of a batch, and records that they were sent."""

from collections.abc import Sequence
from datetime import timedelta

from signer.chain.chain import Chain
from signer.errors import BroadcastRejectedError, ChainError
from signer.model.transaction import (
    Kind,
    SignedTransaction,
    Transaction,
    TransactionStatus,
)
from signer.ports.refund_store import Change
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.saved_steps import (
    REBROADCAST_AFTER,
    Outcomes,
    delay_after,
    is_just_committed,
)
from signer.refunds.sweep_policy import Objection


# A node that answers so may have another transaction of this nonce in its pool or in a
# block.  Only the chain decides which; what it pays never gets another nonce.
_INCONCLUSIVE = frozenset({"nonce-too-low", "underpriced"})


def send(
    parts: PaymentParts,
    transactions: Sequence[Transaction],
    chain: Chain,
    outcomes: Outcomes,
) -> None:
    """
    Broadcast the latest attempt of each of *transactions*.

    Raises an error if the step failed for every one.
    """
    now = parts.clock()
    late = [each for each in transactions if not is_just_committed(each, now)]
    has_stop = False
    if late:
        # Some bytes were never sent: a stop keeps them back as well.
        parts.nonces.require_running(late[0])
        has_stop = parts.nonces.is_any_stopped(late)
    latest = parts.attempts.latest(transactions)
    changes = []
    sending = []
    for transaction, signed in zip(transactions, latest, strict=True):
        with outcomes.capture(transaction):
            if signed.kind is Kind.TRANSFER and _find_objection(
                parts, transaction, has_stop=has_stop
            ):
                # Do not send it; the next step replaces it with a no-op.
                changes.append(_sent(parts, transaction, timedelta(0)))
            else:
                sending.append((transaction, signed))
    errors = broadcast([signed for _, signed in sending], chain)
    results = list(zip(sending, errors, strict=True))
    for (transaction, _), error in results:
        with outcomes.capture(transaction):
            if error is None:
                changes.append(_sent(parts, transaction, _first_delay(chain)))
    parts.saved_steps.save_all(changes, outcomes)
    # Last: a rejection takes several requests, for which the others do not wait.
    changes = []
    for (transaction, signed), error in results:
        with outcomes.capture(transaction):
            if error is not None:
                delay = _delay(parts, transaction, signed, chain, error)
                changes.append(_sent(parts, transaction, delay))
    parts.saved_steps.save_all(changes, outcomes)


def _find_objection(
    parts: PaymentParts, transaction: Transaction, *, has_stop: bool
) -> Objection | None:
    found = parts.transaction_signer.find_ring_objection(transaction)
    if found is None and has_stop:
        found = parts.nonces.find_token_objection(transaction)
    return found


def _sent(parts: PaymentParts, transaction: Transaction, delay: timedelta) -> Change:
    now = parts.clock()
    after = transaction.with_status(
        TransactionStatus.BROADCAST, now, due_at=now + delay
    )
    return Change(transaction, after)


def _delay(
    parts: PaymentParts,
    transaction: Transaction,
    signed: SignedTransaction,
    chain: Chain,
    error: ChainError,
) -> timedelta:
    """Return when *signed* is signed again; raise *error* if it is not."""
    pricing = parts.attempts.pricing
    if pricing.plan_rejected(transaction, chain, signed, error) is None:
        raise error
    # The next step signs it again.  A node that rejects everything must not cause
    # one signature after another.
    return delay_after(signed.attempt)


def _first_delay(chain: Chain) -> timedelta:
    """Return when a transaction that was sent is looked at."""
    stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
    return min(REBROADCAST_AFTER, stuck_after)


def broadcast(
    signed: Sequence[SignedTransaction], chain: Chain
) -> Sequence[ChainError | None]:
    """
    Send what was *signed*; return the error for each that no node accepted.

    A rejection because of its nonce is no error.
    """
    if not signed:
        return ()
    errors = chain.client.broadcast_all([each.raw for each in signed])
    return [None if _is_inconclusive(error) else error for error in errors]


def _is_inconclusive(error: ChainError | None) -> bool:
    return isinstance(error, BroadcastRejectedError) and error.reason in _INCONCLUSIVE
