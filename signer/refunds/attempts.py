"""
Prices, signs and records each transaction of a refund's nonce before it is broadcast.

The transactions of one nonce are its attempts: the first one, replacements with higher
fees or with another gas limit, and a no-op in place of a transfer that must not be
made.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from signer.chain.chain import Chain
from signer.chain.fees import bump_fees, quote_fees
from signer.errors import (
    BackendError,
    ExecutionRevertedError,
    GasLimitError,
    InsufficientFundsError,
    KeyNotFoundError,
    KeyUnusableError,
    StoreError,
    StoreUnavailableError,
)
from signer.model.refund import Kind, Refund, SignedTransaction, Status
from signer.ports import Change, Clock, Fees, Store
from signer.refunds.fee_monitor import FeeMonitor
from signer.refunds.gas import bound_gas, estimate_gas
from signer.refunds.outcomes import Outcome, Outcomes, require_refund
from signer.refunds.policy import NOOP_GAS
from signer.refunds.sweep_policy import Objection, find_fee_objection
from signer.refunds.transaction_signer import Attempt, SignedPayment, TransactionSigner


_MOST_THREADS = 64

_FEES_VALID_FOR = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A transaction that is to be signed, and further changes of its refund."""

    refund: Refund
    attempt: Attempt
    changes: Objection = field(default_factory=dict)


class Attempts:
    """Signs and records the transactions of one nonce."""

    def __init__(
        self,
        store: Store,
        transaction_signer: TransactionSigner,
        fee_monitor: FeeMonitor,
        clock: Clock,
    ) -> None:
        self._store = store
        self._transaction_signer = transaction_signer
        self._fee_monitor = fee_monitor
        self._clock = clock
        # It starts threads when they are needed, and keeps them with their sessions.
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "sign")
        self._recorded: dict[str, SignedTransaction] = {}  # By transaction hash.
        self._known_fees: dict[int, tuple[datetime, Fees]] = {}  # By chain id.
        self._log = structlog.get_logger("refunds")

    def start(
        self,
        refund: Refund,
        chain: Chain,
        kind: Kind = Kind.TRANSFER,
        **changes: Any,
    ) -> Refund:
        """
        Sign the first transaction of *refund*, at the current fees, and record it.

        A sweep that must not be made any more becomes a no-op.

        Raises:
            StaleStateError: Another process changed the refund; nothing was recorded.
            InsufficientFundsError: The address cannot pay for a no-op either.
            FeesAboveRecentError: A transfer waits for lower fees.
            SigningError, ChainError: Nothing was signed.
        """
        plan = self._plan(refund, chain, self._fees(chain), kind, changes)
        return self._sign_and_save(plan, chain)

    def start_all(
        self, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
    ) -> None:
        """
        ``start`` the transfers of *refunds*.

        Raises an error if the step failed for every refund.
        """
        if not refunds:
            return
        fees = self._fees(chain)
        plans = []
        for refund in refunds:
            with outcomes.capture(refund):
                plans.append(self._plan(refund, chain, fees))
        for plan, outcome in zip(
            plans, self._sign_and_save_all(plans, chain), strict=True
        ):
            outcomes[plan.refund.id] = outcome

    def remember_fees(self, chain: Chain, fees: Fees) -> None:
        """Use *fees*, which are current, for what is signed in the next second."""
        self._known_fees[chain.network.chain_id] = self._clock(), fees

    def raise_fees(
        self, refund: Refund, chain: Chain, latest: SignedTransaction
    ) -> Refund | None:
        """
        Sign *latest* again with both fees raised.

        Return None if the fees would exceed the network's cap, or what the address
        holds.  Raises as ``start``.
        """
        fees = chain.client.fees()
        quoted = self._quote(refund, latest.kind, chain, fees)
        raised = _raise_fees(latest, quoted, chain)
        attempt = raised and _follow(latest, latest.gas_limit, *raised, fees)
        if attempt is None or not _is_affordable(refund, attempt, chain):
            self._log.error(
                "refund-stuck-at-fee-cap", refund_id=refund.id, nonce=latest.nonce
            )
            return None
        return self._sign_and_save(_Plan(refund, attempt), chain)

    def reprice(
        self, refund: Refund, chain: Chain, latest: SignedTransaction
    ) -> Refund | None:
        """Sign what ``find_repricing`` returns; return None if there is nothing."""
        attempt = self.find_repricing(refund, chain, latest)
        if attempt is None:
            return None
        return self._sign_and_save(_Plan(refund, attempt), chain)

    def find_repricing(
        self, refund: Refund, chain: Chain, latest: SignedTransaction
    ) -> Attempt | None:
        """
        Return the attempt that replaces *latest* if no node should accept *latest*.

        That is so if it costs more than its address holds, or if its gas limit is less,
        or over twice as much, as its transfer needs.  Its fees may then be lower than
        those of *latest*.  The values of a quorum decide.  A node's error message does
        not decide.

        Return None if *latest* is acceptable, or if the address cannot pay for the
        replacement either.  Raises as ``start``.
        """
        fees = chain.client.fees()
        quoted = self._quote(refund, latest.kind, chain, fees)
        gas = _find_gas(refund, chain, latest)
        attempt = _follow(latest, gas, *quoted, fees)
        balance = chain.client.balance(latest.sender)
        rejected_cost = _cost(
            refund, latest.kind, latest.gas_limit, latest.max_fee_per_gas
        )
        if gas == latest.gas_limit and rejected_cost <= balance:
            return None
        cost = _cost(refund, attempt.kind, attempt.gas, attempt.max_fee)
        return attempt if cost <= balance else None

    def replace_with_noop(
        self,
        refund: Refund,
        chain: Chain,
        latest: SignedTransaction,
        **objection: Any,
    ) -> Refund:
        """
        Sign a no-op in place of a broadcast transfer that must not be made any more.

        Its fees are higher than the transfer's.  At the network's cap they are equal:
        nodes accept the no-op once they have dropped the transfer.
        """
        fees = chain.client.fees()
        unchanged = latest.max_fee_per_gas, latest.max_priority_fee_per_gas
        quoted = self._quote(refund, Kind.NOOP, chain, fees)
        raised = _raise_fees(latest, quoted, chain) or unchanged
        attempt = replace(_follow(latest, NOOP_GAS, *raised, fees), kind=Kind.NOOP)
        return self._sign_and_save(_Plan(refund, attempt, objection), chain)

    def latest(self, refunds: Sequence[Refund]) -> Sequence[SignedTransaction]:
        """Return the transaction that was signed last for each of *refunds*."""
        # This process has just stored most of them: save the reads.
        known, self._recorded = self._recorded, {}
        return [
            known.get(str(refund.tx_hash)) or self._store.transactions(refund.id)[-1]
            for refund in refunds
        ]

    def _plan(
        self,
        refund: Refund,
        chain: Chain,
        fees: Fees,
        kind: Kind = Kind.TRANSFER,
        changes: Objection | None = None,
    ) -> "_Plan":
        _, _, reserved = refund.reservation()
        gas = reserved if kind is Kind.TRANSFER else NOOP_GAS
        quoted = self._quote(refund, kind, chain, fees)
        attempt = Attempt(kind, 0, gas, *quoted, _is_legacy(fees))
        objection = self._find_objection(refund, attempt, chain)
        if objection is not None:
            attempt = replace(attempt, kind=Kind.NOOP, gas=NOOP_GAS)
            changes = objection
        return _Plan(refund, attempt, changes or {})

    def _fees(self, chain: Chain) -> Fees:
        now = self._clock()
        known = self._known_fees.get(chain.network.chain_id)
        if known is None or abs(now - known[0]) > _FEES_VALID_FOR:
            return chain.client.fees()
        return known[1]

    def _quote(
        self, refund: Refund, kind: Kind, chain: Chain, fees: Fees
    ) -> tuple[int, int]:
        """Return the current fees; raises ``FeesAboveRecentError`` for a transfer."""
        quoted = quote_fees(fees, chain.network)
        # A no-op may not wait: it competes with a transfer that must not be made.
        if kind is Kind.TRANSFER:
            sender = str(refund.sender)
            self._fee_monitor.require_normal(refund, chain, sender, quoted[0])
        return quoted

    def _find_objection(
        self, refund: Refund, attempt: Attempt, chain: Chain
    ) -> Objection | None:
        if attempt.kind is Kind.NOOP:
            return None
        objection = self._transaction_signer.find_sweep_objection(refund)
        if objection is not None or not refund.is_coin:
            return objection
        balance, max_fee = chain.client.balance(str(refund.sender)), attempt.max_fee
        objection = find_fee_objection(refund, balance, gas=NOOP_GAS, max_fee=max_fee)
        if objection is not None and balance < NOOP_GAS * max_fee:
            raise InsufficientFundsError(
                f"{refund.sender} cannot pay for gas at the current fees: top it up"
            )
        return objection

    def _sign_and_save(self, plan: "_Plan", chain: Chain) -> Refund:
        (outcome,) = self._sign_and_save_all([plan], chain)
        return require_refund(outcome)

    def _sign_and_save_all(
        self, plans: Sequence["_Plan"], chain: Chain
    ) -> Sequence[Outcome]:
        """Return the refunds with their new transactions, which are then durable."""
        made = self._sign_all(plans, chain)
        outcomes: dict[str, Outcome] = {}
        changes, payments = [], []
        for plan, payment in zip(plans, made, strict=True):
            if isinstance(payment, Exception):
                outcomes[plan.refund.id] = payment
                continue
            signed = payment.transaction
            after = plan.refund.with_status(
                Status.SIGNED, self._clock(), tx_hash=signed.tx_hash, **plan.changes
            )
            changes.append(Change(plan.refund, after, signed, payment.outcome))
            payments.append(payment)
        errors = self._store.save_all(changes)
        unused = []
        for change, payment, error in zip(changes, payments, errors, strict=True):
            if error is None:
                self._recorded[payment.transaction.tx_hash] = payment.transaction
                payment.audit.log(payment.outcome)
            else:
                unused.append(payment)
            outcomes[change.before.id] = error or change.after
        self._record_unused(unused)
        return [outcomes[plan.refund.id] for plan in plans]

    def _sign_all(
        self, plans: Sequence["_Plan"], chain: Chain
    ) -> Sequence[SignedPayment | Exception]:
        # Of the device by address, or of the database.  Do not wait for it again.
        failures: dict[str | None, Exception] = {}

        def sign(plan: _Plan) -> SignedPayment | Exception:
            sender = plan.refund.sender
            if sender in failures:
                return failures[sender]
            try:
                return self._transaction_signer.build_and_sign(
                    plan.refund, plan.attempt, chain.network
                )
            except Exception as e:  # noqa: BLE001 - it is the outcome of this refund.
                if is_device_failure(e) or isinstance(e, StoreUnavailableError):
                    failures[sender] = e
                return e

        waiting = deque(plans)
        made: dict[str, SignedPayment | Exception] = {}

        def sign_waiting() -> None:
            with suppress(IndexError):
                while True:
                    plan = waiting.popleft()
                    made[plan.refund.id] = sign(plan)

        threads = min(self._transaction_signer.concurrency(), len(plans))
        helpers = [self._threads.submit(sign_waiting) for _ in range(threads - 1)]
        sign_waiting()
        wait(helpers)
        return [made[plan.refund.id] for plan in plans]

    def _record_unused(self, payments: Sequence[SignedPayment]) -> None:
        if not payments:
            return
        try:
            # All at once, in the log that the signers of a process share: if the
            # database is down, a process that must end waits for it only once more.
            payments[0].audit.write(*(payment.outcome for payment in payments))
        except StoreError as e:
            for payment in payments:
                refund_id = payment.transaction.refund_id
                self._log.warning(
                    "outcome-not-recorded", refund_id=refund_id, code=e.code
                )


def is_device_failure(error: Exception) -> bool:
    """
    Return whether *error* means that the device of a key fails.

    A missing or unusable key does not mean that.  Nor does a failing device of one key
    mean that of another: they may be in two regions.
    """
    is_key_error = isinstance(error, KeyNotFoundError | KeyUnusableError)
    return isinstance(error, BackendError) and not is_key_error


def _is_legacy(fees: Fees) -> bool:
    return fees.base_fee is None


def _raise_fees(
    latest: SignedTransaction, quoted: tuple[int, int], chain: Chain
) -> tuple[int, int] | None:
    return bump_fees(
        latest.max_fee_per_gas,
        latest.max_priority_fee_per_gas,
        quoted,
        chain.network,
    )


def _follow(
    latest: SignedTransaction, gas: int, max_fee: int, priority_fee: int, fees: Fees
) -> Attempt:
    """Return the attempt after *latest*, of the same kind."""
    number = latest.attempt + 1
    return Attempt(latest.kind, number, gas, max_fee, priority_fee, _is_legacy(fees))


def _find_gas(refund: Refund, chain: Chain, latest: SignedTransaction) -> int:
    """Return the gas limit of *latest*, unless the transfer needs another one."""
    if latest.kind is Kind.NOOP:
        return latest.gas_limit
    try:
        estimate = estimate_gas(refund, chain, latest.sender)
        gas = bound_gas(estimate, refund, chain)
    except (ExecutionRevertedError, GasLimitError, InsufficientFundsError):
        return latest.gas_limit  # It cannot be estimated now.
    # A limit that is a little higher than needed costs nothing.
    return latest.gas_limit if estimate <= latest.gas_limit <= 2 * gas else gas


def _is_affordable(refund: Refund, attempt: Attempt, chain: Chain) -> bool:
    cost = _cost(refund, attempt.kind, attempt.gas, attempt.max_fee)
    return cost <= chain.client.balance(str(refund.sender))


def _cost(refund: Refund, kind: Kind, gas: int, max_fee: int) -> int:
    """Return what an address must hold for a node to accept a transaction, in wei."""
    value = refund.amount if refund.is_coin and kind is Kind.TRANSFER else 0
    return value + gas * max_fee
