"""Takes queued refunds to their nonce, or ends them before they use one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from signer.audit.actions import AuditAction
from signer.chain.chain import Chain
from signer.chain.fees import quote_fees
from signer.chain.vault import TRANSACTION_GAS
from signer.config.networks import NOOP_GAS, Network
from signer.errors import (
    ApprovalRequiredError,
    ChainError,
    ExecutionRevertedError,
    InsufficientFundsError,
    KeyRotatedError,
    TooManyInFlightError,
    VaultLimitError,
)
from signer.keys.keyring import ActiveKey
from signer.model.approval import ApprovalState
from signer.model.audit_record import WORKER, Operation, Record
from signer.model.decision import ApprovalNeed
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction, TransactionKind
from signer.model.wallet import UnrecordedTransaction
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Reservation
from signer.refunds.gas import bound_gas, find_holder, require_funds
from signer.refunds.payload import find_vault
from signer.refunds.payment_checks import max_gas
from signer.refunds.payment_parts import PaymentParts
from signer.refunds.saved_steps import Outcomes
from signer.refunds.sweep_policy import Objection, build_objection, find_fee_objection
from signer.refunds.transaction_signer import (
    describe_refund,
    purpose_of,
)
from signer.refunds.vault_limits import VaultLimits


_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
_MOST_DOUBLED = 8

Ending = tuple[Refund, Objection | None]
"""A refund, and why it is refused; None: its tenant cancels it."""


def end_all(
    parts: PaymentParts, endings: Sequence[Ending], chain: Chain, outcomes: Outcomes
) -> None:
    """
    End refunds of one chain, except those that the chain shows to be paid.

    A ledger that was restored from a backup may have lost the payments.
    """
    if not endings:
        return
    active = parts.nonces.select_key(endings[0][0])
    counted = chain.client.pending_count(active.key.address)
    parts.nonces.check_against_chain(chain, active.key.address, counted)
    together = parts.nonces.adopt_batches([each for each, _ in endings], chain)
    outcomes.update(together)
    for refund, objection in endings:
        if refund.id in together:
            continue
        with outcomes.capture(refund):
            adopted = parts.nonces.adopt_earlier_payment(refund, chain)
            outcomes[refund.id] = adopted or _end(parts, refund, objection)


def refuse(parts: PaymentParts, refund: Refund, objection: Objection) -> Refund:
    """Save that *refund* is refused because of *objection*, and return it."""
    code = objection["failure_code"]
    record = _draft(parts, AuditAction.REFUND_REFUSE, refund, code=code)
    refused = parts.saved_steps.move(
        refund, PaymentState.REFUSED, record=record, **objection
    )
    parts.audit.log(record)
    return refused


def _end(parts: PaymentParts, refund: Refund, objection: Objection | None) -> Refund:
    if objection is not None:
        return refuse(parts, refund, objection)
    record = _draft(parts, AuditAction.REFUND_CANCEL, refund)
    cancelled = parts.saved_steps.move(refund, PaymentState.CANCELLED, record=record)
    parts.audit.log(record)
    return cancelled


def _draft(
    parts: PaymentParts, action: AuditAction, refund: Refund, **details: str
) -> Record:
    return parts.audit.result(
        action, Operation.REFUND, WORKER, **describe_refund(refund), **details
    )


class _Coin:
    """The coin that payments send, so that none waits with its nonce for a top-up."""

    def __init__(self, store: Ledger, chain: Chain, sender: str) -> None:
        self._store = store
        self._chain = chain
        self._sender = sender
        self._shared = chain.network.token_of_coin
        self._left: int | None = None

    def require(self, reservation: Reservation, max_fee: int) -> None:
        """
        Require that the address holds the coin of a call and its gas, and count it.

        Also of a refund whose token is the coin: a node that estimates deducts no gas.

        Raises:
            InsufficientFundsError: It does not, besides what other payments send.
        """
        refund, shared = reservation.refund, self._shared
        value = refund.amount if refund.purpose is PaymentPurpose.CALL else 0
        if shared is not None and refund.token_address == shared.address:
            value = shared.in_coin(refund.amount)
        if not value or refund.purpose is PaymentPurpose.SWEEP:
            return
        if self._left is None:
            self._left = self._chain.client.balance(self._sender) - self._count_open()
        cost = value + reservation.gas_limit * max_fee
        if cost > self._left:
            raise InsufficientFundsError(
                f"{self._sender} holds too little coin for the payment and its gas,"
                " beside what has a nonce: top it up"
            )
        self._left -= cost

    def _count_open(self) -> int:
        """Return the coin that what has a nonce of the address will still send."""
        chain_id, shared = self._chain.network.chain_id, self._shared
        total = sum(
            each.amount
            for each in self._store.open_calls(chain_id)
            if each.sender == self._sender and each.status is not Status.MINED
        )
        if shared is not None:
            amounts = self._store.unmined_amounts(chain_id, None, shared.address)
            total += shared.in_coin(amounts.get(self._sender, 0))
        return total


def pause_after(earlier: int) -> timedelta:
    """
    Return how long a refund waits that *earlier* transactions did not pay.

    Each of them cost gas, and counts towards the limits.

    >>> [str(pause_after(count)) for count in (1, 2, 3, 100)]
    ['0:00:00', '0:00:30', '0:01:30', '1:00:00']
    """
    doubled = 1 << min(earlier, _MOST_DOUBLED)
    return min(_FIRST_PAUSE * (doubled // 2 - 1), _LONGEST_PAUSE)


def reserve(
    parts: PaymentParts, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
) -> None:
    """
    Give each of *refunds* a nonce, or end it.

    They are of one chain, and all are refunds of tenants or sweeps of one address.
    Raises an error if the step failed for every refund.
    """
    _try(parts, refunds, chain, outcomes)
    rotated = [
        refund
        for refund in refunds
        if isinstance(outcomes.get(refund.id), KeyRotatedError)
    ]
    if rotated:
        # The key was rotated meanwhile.  If that happens again, the refunds wait.
        _try(parts, rotated, chain, outcomes)


def _try(
    parts: PaymentParts, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
) -> None:
    cancelled = [each for each in refunds if each.cancel_requested_at is not None]
    waiting = []
    approved: dict[str, frozenset[str]] = {}
    for refund in refunds:
        if refund.cancel_requested_at is None:
            with outcomes.capture(refund):
                moved = _end_outdated(parts, refund, chain) or (
                    _hold_back(parts, refund, chain, approved)
                )
                if moved is None:
                    waiting.append(refund)
                else:
                    outcomes[refund.id] = moved
    if waiting:
        _assign(parts, waiting, chain, outcomes, approved)
    # Last, so that they delay no payment.
    end_all(parts, [(each, None) for each in cancelled], chain, outcomes)


def _hold_back(
    parts: PaymentParts,
    refund: Refund,
    chain: Chain,
    approved: dict[str, frozenset[str]],
) -> Refund | None:
    """
    Return a refund that needs an approval and has none, after it was moved.

    The configuration was changed since it was accepted, or its row was.  If it has
    one, add its digest to *approved*, by refund id.
    """
    need = parts.approvals.find_need(refund, chain.network)
    if need is None:
        return None
    approval = parts.approvals.settle(refund, need)
    if approval.state is ApprovalState.DONE:
        approved[refund.id] = frozenset({approval.digest})
        return None
    return parts.saved_steps.move(refund, PaymentState.AWAITING_APPROVAL)


def _end_outdated(parts: PaymentParts, refund: Refund, chain: Chain) -> Refund | None:
    """Return an outdated sweep, after it was refused; None for others."""
    objection = parts.transaction_signer.find_sweep_objection(refund)
    if objection is None:
        return None
    # Refuse an outdated sweep even while its wallet or network is paused.
    adopted = parts.nonces.adopt_earlier_payment(refund, chain)
    return adopted or refuse(parts, refund, objection)


def _assign(
    parts: PaymentParts,
    refunds: Sequence[Refund],
    chain: Chain,
    outcomes: Outcomes,
    approved: Mapping[str, frozenset[str]],
) -> None:
    active = parts.nonces.select_key(refunds[0])
    sender = active.key.address
    refunds = _take_places(parts, refunds, chain, sender, outcomes)
    if not refunds:
        return
    # A sweep of coin has a constant.
    estimated = [r for r in refunds if r.kind is not TransactionKind.COIN]
    preflight = parts.gas.preflight(estimated, chain, sender)
    counted = preflight.pending_count
    parts.nonces.check_against_chain(chain, sender, counted)
    parts.attempts.pricing.remember_fees(chain, preflight.fees)
    memos = [refund.memo for refund in refunds]
    payments = parts.store.find_unrecorded(chain.network.chain_id, memos)
    estimates = iter(preflight.estimates)
    max_fee, _ = quote_fees(preflight.fees, chain.network)
    coin = _Coin(parts.store, chain, sender)
    vault = VaultLimits(parts.store, chain, sender, alerts=parts.alerts)
    adopted = parts.nonces.adopt_batches(refunds, chain, payments)
    outcomes.update(adopted)
    reservations = []
    for refund, memo in zip(refunds, memos, strict=True):
        is_coin = refund.kind is TransactionKind.COIN
        estimate = NOOP_GAS if is_coin else next(estimates)
        if refund.id in adopted:
            continue
        with outcomes.capture(refund):
            prepared = _prepare(
                parts, refund, chain, active, estimate, payment=payments.get(memo)
            )
            if isinstance(prepared, Reservation):
                # A refund that has to wait takes no nonce, and may be cancelled.
                parts.attempts.pricing.gas_price_check.require_normal(
                    refund, chain, sender, max_fee
                )
                digests = approved.get(refund.id, frozenset())
                prepared = replace(prepared, approvals=digests)
                prepared = _permit(parts, prepared, sender, max_fee, chain)
            if isinstance(prepared, Reservation):
                coin.require(prepared, max_fee)
                vault.require(refund)
                reservations.append(prepared)
            else:
                outcomes[refund.id] = prepared
    reserving = (each.refund for each in reservations)
    vault.resolve_alerts(reserving, parts.alerts)
    reserved = parts.nonces.assign_nonces(
        reservations,
        counted=counted,
        active=active,
        network=chain.network,
    )
    for reservation, outcome in zip(reservations, reserved, strict=True):
        outcomes[reservation.refund.id] = outcome


def _require_pause(
    parts: PaymentParts, refund: Refund, earlier: int, network: Network
) -> None:
    """Require that *refund* has waited since the *earlier* tries of a vault."""
    pause = pause_after(earlier)
    waited = parts.clock() - refund.updated_at
    if find_vault(refund, network) and timedelta(0) <= waited < pause:
        raise VaultLimitError(
            f"{earlier} transactions did not pay the refund: it waits for {pause}"
        )


def _take_places(
    parts: PaymentParts,
    refunds: Sequence[Refund],
    chain: Chain,
    sender: str,
    outcomes: Outcomes,
) -> Sequence[Refund]:
    """
    Return those of *refunds* that have a place in the window of *sender*.

    No node is asked about the others.  The reservation counts again.
    """
    window = chain.network.window
    if window is None:
        return refunds
    used = parts.store.count_in_flight(sender).get(chain.network.chain_id, 0)
    places = max(0, window - used) * chain.network.per_batch
    error = TooManyInFlightError(f"{used} transactions of {sender} have no receipt")
    outcomes.update(dict.fromkeys((each.id for each in refunds[places:]), error))
    return refunds[:places]


def _permit(
    parts: PaymentParts, prepared: Reservation, sender: str, max_fee: int, chain: Chain
) -> Reservation | Refund:
    """
    Ask the policy about the transaction with its real gas and fee.

    Return the reservation with what decides again when the nonce is reserved; or
    the refund, after it was moved, if it needs other approvals.
    """
    refund, digests = prepared.refund, set(prepared.approvals)

    def approve(need: ApprovalNeed) -> None:
        digests.add(parts.approvals.require_approved(refund, need).digest)

    try:
        permit = parts.transaction_signer.require_permitted(
            prepared, sender, max_fee, chain.network, approve
        )
    except ApprovalRequiredError:
        return parts.saved_steps.move(refund, PaymentState.AWAITING_APPROVAL)
    return replace(prepared, approvals=frozenset(digests), permit=permit)


def _prepare(
    parts: PaymentParts,
    refund: Refund,
    chain: Chain,
    active: ActiveKey,
    estimate: int | ChainError,
    *,
    payment: UnrecordedTransaction | None,
) -> Reservation | Refund:
    """Return the reservation for *refund*, or the refund if it has ended."""
    if payment is not None:
        return parts.nonces.adopt(refund, payment, chain)
    holder = find_holder(refund, chain, active.key.address)
    if refund.purpose is PaymentPurpose.CALL:
        # Nodes do not estimate what the address cannot pay.
        require_funds(refund, chain, holder)
    if isinstance(estimate, ExecutionRevertedError):
        require_funds(refund, chain, holder)
        # Do not use a nonce for a transfer that the token would refuse.
        reason = build_objection(estimate.code, str(estimate))
        return refuse(parts, refund, reason)
    if isinstance(estimate, ChainError):
        raise estimate
    earlier = parts.nonces.count_earlier(refund, chain)
    _require_pause(parts, refund, earlier, chain.network)
    gas = _find_gas(parts, refund, chain, estimate, earlier)
    objection = _find_fee_objection(refund, chain, gas)
    if objection is not None:
        return refuse(parts, refund, objection)

    def draft_intent(reserved: Transaction) -> Record:
        epoch = active.key.epoch or 0
        policy = parts.transaction_signer.policy_hash
        purpose = purpose_of(reserved, epoch=epoch, policy=policy)
        return active.signer.intent(purpose)

    # A sweep records its intent when it is signed: until then, the ring may not
    # change, which is checked with that record.
    is_sweep = refund.purpose is PaymentPurpose.SWEEP
    limits = parts.nonces.limits(refund, chain)
    draft = None if is_sweep else draft_intent
    return Reservation(
        refund,
        gas,
        limits,
        draft,
        vault=find_vault(refund, chain.network),
        earlier=earlier,
    )


def _find_gas(
    parts: PaymentParts, refund: Refund, chain: Chain, estimate: int, earlier: int
) -> int:
    """Return the gas limit of *refund*, or of its item in a batch."""
    gas = bound_gas(estimate, refund, chain)
    if earlier and parts.store.find_reverted([refund.id]):
        # Another item of its batch may have used too much.
        return max_gas(refund, chain.network)
    # The estimate is that of a transaction of its own.
    is_item = find_vault(refund, chain.network) is not None
    return gas - TRANSACTION_GAS if is_item else gas


def _find_fee_objection(refund: Refund, chain: Chain, gas: int) -> Objection | None:
    """Return why a queued sweep cannot be paid at the current fees."""
    if refund.bound_sender is None:
        return None
    max_fee, _ = quote_fees(chain.client.fees(), chain.network)
    balance = chain.client.balance(refund.bound_sender)
    return find_fee_objection(refund, balance, gas=gas, max_fee=max_fee)
