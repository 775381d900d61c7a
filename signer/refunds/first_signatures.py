"""
Signs a reserved transaction for the first time.

One that this process has just reserved is signed at once.  For any other, what was
checked at the reservation is checked again, and a no-op consumes the nonce of one that
must not pay any more: otherwise all higher nonces would wait without end.
"""

from collections.abc import Sequence
from datetime import timedelta

from signer.chain.chain import Chain
from signer.errors import ExecutionRevertedError, RowNotAuthenticError
from signer.model.sealed_fields import changed
from signer.model.transaction import Transaction, TransactionKind
from signer.refunds.gas import bound_gas, estimate_gas
from signer.refunds.payment_approvals import find_objection
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.pending_transactions import handle_used_nonce
from signer.refunds.saved_steps import Outcomes
from signer.refunds.sweep_policy import Objection, build_objection


SIMULATION_VALID_FOR = timedelta(seconds=10)
"""How long a successful simulation of a transfer is trusted."""


def sign(
    parts: PaymentParts,
    transactions: Sequence[Transaction],
    chain: Chain,
    outcomes: Outcomes,
) -> None:
    """Sign *transactions*; raises an error if the step failed for every one."""
    just_reserved = []
    for transaction in transactions:
        age = parts.clock() - transaction.updated_at
        is_fresh = timedelta(0) <= age <= SIMULATION_VALID_FOR
        is_checked = transaction.intent is not None or not any(
            parts.approvals.find_need(each, chain.network)
            for each in transaction.payments
        )
        is_requested = _find_unrequested(parts, transaction) is None
        if transaction.kind is TransactionKind.FILLER:
            with outcomes.capture(transaction):
                outcomes[transaction.id] = _fill(parts, transaction, chain)
        elif is_fresh and is_checked and is_requested:
            just_reserved.append(transaction)
        else:
            with outcomes.capture(transaction):
                outcomes[transaction.id] = _sign_late(parts, transaction, chain)
    parts.attempts.start_all(just_reserved, chain, outcomes)


def _fill(parts: PaymentParts, filler: Transaction, chain: Chain) -> Transaction:
    """Sign a no-op for the nonce of *filler*, unless the nonce is used."""
    settled = handle_used_nonce(parts, filler, chain)
    return settled or parts.attempts.start(filler, chain)


def _sign_late(
    parts: PaymentParts, transaction: Transaction, chain: Chain
) -> Transaction:
    # Nonce, token and key may have changed since.  The key may have been revoked
    # after its intent to sign was recorded, so record a new one.
    transaction = changed(transaction, intent=None)
    settled = handle_used_nonce(parts, transaction, chain)
    if settled is not None:
        return settled
    # A ledger that was restored from before the key was revoked has lost that its
    # payments got another nonce.
    sender = transaction.sender
    parts.nonces.require_other_wallets_known(chain, sender, if_restored=True)
    objection = _find_objection(parts, transaction, chain)
    if objection is not None:
        return parts.attempts.start(transaction, chain, objection)
    if transaction.kind is TransactionKind.BATCH:
        # A vault skips an item that the token would refuse, and pays the others.
        return parts.attempts.start(transaction, chain)
    payment = transaction.payment
    try:
        estimate = estimate_gas(payment, chain, sender)
    except ExecutionRevertedError as e:
        reason = build_objection(e.code, str(e))
        return parts.attempts.start(transaction, chain, reason)
    if transaction.kind is TransactionKind.CALL:
        # After a restore, the reserved limit is the largest one of any call.
        gas = bound_gas(estimate, payment, chain)
        return parts.attempts.start(transaction, chain, largest_gas=gas)
    return parts.attempts.start(transaction, chain)


def _find_objection(
    parts: PaymentParts, transaction: Transaction, chain: Chain
) -> Objection | None:
    # A stop of the token comes before the policy: it is how an operator frees the
    # nonce of a payment that a rule refuses.
    objection = (
        parts.nonces.find_other_payment(transaction, chain)
        or parts.nonces.find_token_objection(transaction)
        or _find_unrequested(parts, transaction)
    )
    if objection is not None:
        return objection
    for payment in transaction.payments:
        need = parts.approvals.find_need(payment, chain.network)
        # Its approval became necessary, or was decided, after the reservation.
        found = need and find_objection(parts.approvals.settle(payment, need))
        if found:
            return found
    return None


def _find_unrequested(
    parts: PaymentParts, transaction: Transaction
) -> Objection | None:
    """Return why a refund of a batch was not requested by its tenant, or None."""
    if transaction.kind is not TransactionKind.BATCH:
        return None  # It waits, and holds up no other refund's payment.
    try:
        for payment in transaction.payments:
            parts.signed_requests.require(payment)
    except RowNotAuthenticError as e:
        return build_objection(e.code, str(e))
    return None
