"""
Rebroadcasts transactions that are not mined in time, or replaces them.

A replacement has higher fees, or is a no-op if the transfer must not be made any more.
It has lower fees or another gas limit if no node should accept the transaction as it is
(``Pricing.plan_repricing``).
It also detects that a transaction of another origin used the nonce.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from signer.chain.chain import Chain
from signer.errors import (
    ApprovalRequiredError,
    FeesAboveRecentError,
    HotWalletError,
    PolicyViolationError,
    ScreeningUnavailableError,
    SigningStoppedError,
)
from signer.model.payment import PaymentState
from signer.model.refund import Status
from signer.model.transaction import (
    Kind,
    PaymentEnd,
    SignedTransaction,
    Transaction,
    TransactionKind,
    TransactionStatus,
)
from signer.ports.chain import MinedTransaction
from signer.refunds.batch_ends import queue_again
from signer.refunds.broadcasts import broadcast
from signer.refunds.nonce_checks import describe_end
from signer.refunds.payload import pays_by
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.saved_steps import Outcomes
from signer.refunds.sweep_policy import NO_OBJECTION, Objection, build_objection


_NOT_NOW: tuple[type[HotWalletError], ...] = (
    ApprovalRequiredError,
    FeesAboveRecentError,
    PolicyViolationError,
    ScreeningUnavailableError,
    SigningStoppedError,
)
"""The errors that keep the fees of a transaction as they are."""


def follow(
    parts: PaymentParts,
    transactions: Sequence[Transaction],
    chain: Chain,
    outcomes: Outcomes,
) -> None:
    """
    Replace or rebroadcast the latest attempt of each of *transactions*.

    Raises an error if the step failed for every one.
    """
    senders = sorted({each.sender for each in transactions})
    counts = {each: chain.client.transaction_count(each) for each in senders}
    unmined = []
    for transaction in transactions:
        with outcomes.capture(transaction):
            step = _settle_or_replace(parts, transaction, chain, counts)
            if isinstance(step, Transaction):
                outcomes[transaction.id] = step
            else:
                unmined.append((transaction, step))
    _rebroadcast(parts, unmined, chain, outcomes)


def handle_used_nonce(
    parts: PaymentParts,
    transaction: Transaction,
    chain: Chain,
    counted: int | None = None,
) -> Transaction | None:
    """
    Save what the chain shows if the nonce is used, and return the transaction.

    *counted* is the sender's transaction count, which is read if it is None.  Only
    a *final* transaction of another origin fails this one: receipts may be late,
    and nodes may lag, for a long time.  Return None if the nonce is unused.
    """
    sender, nonce = transaction.sender, transaction.nonce
    if counted is None:
        counted = chain.client.transaction_count(sender)
    if counted <= nonce:
        return None
    ours = {signed.tx_hash for signed in parts.store.attempts(transaction)}
    mined = chain.client.find_transaction(sender, nonce)
    if mined is None or mined.tx_hash in ours:
        return parts.saved_steps.recheck_later(transaction)
    if pays_by(transaction, mined):
        return _adopt(parts, transaction, mined)
    if not chain.is_final(mined):
        return parts.saved_steps.recheck_later(transaction)
    return _end_without_nonce(parts, transaction, mined, chain)


def _end_without_nonce(
    parts: PaymentParts, transaction: Transaction, mined: MinedTransaction, chain: Chain
) -> Transaction:
    """Save that *mined*, which is final, has the nonce of *transaction*."""
    found = parts.nonces.wallets.record_nonce_taken(transaction, mined, chain)
    # A batch that a restored ledger has lost may have paid some of the refunds.
    items = {each.memo: each for each in found if each.item_end is not None}
    detail = f"transaction {mined.tx_hash} has the refund's nonce"
    taken = build_objection("nonce-taken", detail)
    failures = {
        each.id: describe_end(items[each.memo], chain)
        for each in transaction.payments
        if each.memo in items
    }
    ends = None
    if transaction.kind is TransactionKind.BATCH:
        # The others were not paid, which is read from the chain once more before
        # their next nonce.
        ends = {
            **queue_again(transaction, parts.clock()),
            **{
                id_: PaymentEnd(PaymentState.FAILED, each)
                for id_, each in failures.items()
            },
        }
    return parts.saved_steps.move_transaction(
        transaction,
        TransactionStatus.FAILED,
        failure=next(iter(failures.values()), taken),
        ends=ends,
    )


def _settle_or_replace(
    parts: PaymentParts,
    transaction: Transaction,
    chain: Chain,
    counts: Mapping[str, int],
) -> Transaction | SignedTransaction:
    """Return *transaction* after its step, or its attempt to send again."""
    counted = counts[transaction.sender]
    settled = handle_used_nonce(parts, transaction, chain, counted)
    if settled is not None:
        return settled
    signed = parts.store.attempts(transaction)
    if not signed:
        # Adopted after a restore from a backup, and removed by a reorganisation.
        return parts.attempts.start(transaction, chain)
    latest = signed[-1]
    is_transfer = latest.kind is Kind.TRANSFER
    objection = _find_objection(parts, transaction, chain) if is_transfer else None
    if objection is not None:
        # The no-op competes with the transfer, which is not broadcast again.
        plan = parts.attempts.pricing.plan_noop(transaction, chain, latest, objection)
        return parts.attempts.record(plan, chain)
    stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
    # The absolute value, since a clock may have been set back.
    if abs(parts.clock() - transaction.updated_at) < stuck_after:
        return latest
    is_next = counted == latest.nonce
    replaced = _replace_stuck(parts, transaction, chain, latest, is_next=is_next)
    return replaced or latest


def _rebroadcast(
    parts: PaymentParts,
    unmined: Sequence[tuple[Transaction, SignedTransaction]],
    chain: Chain,
    outcomes: Outcomes,
) -> None:
    # Nodes drop transactions.  Sending the same bytes again cannot pay twice.  Some
    # nodes accept no nonce before the lower ones.
    unmined = sorted(unmined, key=lambda each: each[1].nonce)
    errors = broadcast([latest for _, latest in unmined], chain)
    sent = []
    for (transaction, latest), error in zip(unmined, errors, strict=True):
        with outcomes.capture(transaction):
            plan = parts.attempts.pricing.plan_rejected(
                transaction, chain, latest, error
            )
            if plan is not None:
                outcomes[transaction.id] = parts.attempts.record(plan, chain)
            elif error is not None:
                raise error
            else:
                sent.append(transaction)
    parts.saved_steps.recheck_all_later(sent, outcomes)


def _find_objection(
    parts: PaymentParts, transaction: Transaction, chain: Chain
) -> Objection | None:
    return (
        parts.nonces.find_other_payment(transaction, chain)
        or parts.transaction_signer.find_ring_objection(transaction)
        or parts.nonces.find_token_objection(transaction)
        or _find_vault_objection(transaction, chain)
    )


def _replace_stuck(
    parts: PaymentParts,
    transaction: Transaction,
    chain: Chain,
    latest: SignedTransaction,
    *,
    is_next: bool,
) -> Transaction | None:
    """Sign again with better fees; None if that does not help, or at the cap."""
    base_fee = parts.attempts.pricing.current_fees(chain).base_fee or 0
    waits = not is_next or _became_next_lately(parts, latest, chain)
    if waits and latest.max_fee_per_gas >= base_fee:
        return None  # It waits for lower nonces, not for higher fees.
    # A node that reports success may hide that the others reject it for good.
    try:
        parts.nonces.require_running(transaction)
        plan = parts.attempts.pricing.plan_repricing(
            transaction, chain, latest
        ) or parts.attempts.pricing.plan_higher_fees(transaction, chain, latest)
        return None if plan is None else parts.attempts.record(plan, chain)
    except _NOT_NOW:
        return None  # The same bytes are sent again until a signature may follow.


def _became_next_lately(
    parts: PaymentParts, latest: SignedTransaction, chain: Chain
) -> bool:
    """Return whether the nonce below was mined so lately that *latest* may be."""
    wallet = latest.chain_id, latest.sender
    below = parts.store.find_transaction(*wallet, latest.nonce - 1)
    if below is None:
        return False
    moves = (parts.store.history(each.id) for each in below.payments[:1])
    mined = [m.at for each in moves for m in each if m.status is Status.MINED]
    if not below.payments and below.status is TransactionStatus.MINED:
        mined.append(below.updated_at)  # It has no history.
    stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
    return any(abs(parts.clock() - at) < stuck_after for at in mined)


def _adopt(
    parts: PaymentParts, transaction: Transaction, mined: MinedTransaction
) -> Transaction:
    """Return the transaction as mined by an attempt that the ledger has lost."""
    return parts.saved_steps.move_transaction(
        transaction,
        TransactionStatus.MINED,
        tx_hash=mined.tx_hash,
        block_number=mined.block.number,
        block_hash=mined.block.hash,
        failure=NO_OBJECTION,  # Clears the reason of a no-op that was not mined.
    )


def _find_vault_objection(transaction: Transaction, chain: Chain) -> Objection | None:
    """Return why a batch must not be paid, by a vault that the network has no more."""
    if transaction.vault in {None, chain.network.vault}:
        return None
    detail = f"the network has another vault than {transaction.vault} now, or none"
    return build_objection(PolicyViolationError.code, detail)
