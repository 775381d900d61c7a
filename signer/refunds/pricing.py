"""
Decides kind, gas limit and fees of each attempt of a transaction.

It signs and records nothing (``attempts``).
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from signer.chain.chain import Chain
from signer.chain.fees import bump_fees, quote_fees
from signer.config.networks import NOOP_GAS
from signer.crypto.transactions import MAX_GAS
from signer.errors import (
    BroadcastRejectedError,
    ChainError,
    ExecutionRevertedError,
    GasLimitError,
    InsufficientFundsError,
)
from signer.model.transaction import (
    Kind,
    SignedTransaction,
    Transaction,
    TransactionKind,
)
from signer.ports.chain import Fees
from signer.ports.clock import Clock
from signer.refunds.gas import bound_gas, estimate_gas
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.payload import payload_of
from signer.refunds.sweep_policy import Objection, build_objection, find_fee_objection
from signer.refunds.transaction_signer import Attempt, TransactionSigner


_Quote = tuple[int, int, bool]
"""Max fee, priority fee, and whether the transaction is a legacy one."""

_FEES_VALID_FOR = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """What is to be signed for a transaction; and why, if it is a no-op."""

    transaction: Transaction
    attempt: Attempt
    objection: Objection | None = None


class Pricing:
    """
    Plans the transactions of one nonce, at fees that are at most a second old.

    A plan of a transfer raises ``FeesAboveRecentError`` while fees are too high, and
    every plan raises ``ChainError`` if the nodes do not answer.
    """

    def __init__(
        self,
        transaction_signer: TransactionSigner,
        gas_price_check: GasPriceCheck,
        clock: Clock,
    ) -> None:
        self._transaction_signer = transaction_signer
        self.gas_price_check = gas_price_check
        self._clock = clock
        self._fees: dict[int, tuple[datetime, Fees]] = {}  # By chain id.
        self._log = structlog.get_logger("refunds")

    def remember_fees(self, chain: Chain, fees: Fees) -> None:
        """Use *fees*, which are current, for what is signed in the next second."""
        self._fees[chain.network.chain_id] = self._clock(), fees

    def current_fees(self, chain: Chain) -> Fees:
        """Return the fees of *chain*, at most a second old."""
        now = self._clock()
        known = self._fees.get(chain.network.chain_id)
        if known is None or abs(now - known[0]) > _FEES_VALID_FOR:
            known = self._fees[chain.network.chain_id] = now, chain.client.fees()
        return known[1]

    def plan_first(
        self,
        transaction: Transaction,
        chain: Chain,
        objection: Objection | None = None,
        *,
        largest_gas: int = MAX_GAS,
    ) -> AttemptPlan:
        """
        Plan the first attempt; an *objection*, also of a sweep, makes it a no-op.

        Its gas limit is the reserved one, and at most *largest_gas*.

        Raises:
            InsufficientFundsError: The address of a sweep of coin cannot pay for the
                no-op either.
        """
        pays = bool(transaction.payments)  # A filler makes none.
        kind = Kind.TRANSFER if pays and objection is None else Kind.NOOP
        gas = min(transaction.gas_limit, largest_gas)
        attempt = Attempt(kind, 0, gas, *self._quote(transaction, kind, chain))
        objection = objection or self._find_objection(transaction, attempt, chain)
        if pays and objection is None:
            return AttemptPlan(transaction, attempt)
        noop = replace(attempt, kind=Kind.NOOP, gas=chain.network.noop_gas)
        is_sweep = transaction.kind is TransactionKind.COIN
        if is_sweep and not _is_affordable(transaction, noop, chain):
            raise InsufficientFundsError(
                f"{transaction.sender} cannot pay for gas at the current fees: top it"
                " up"
            )
        return AttemptPlan(transaction, noop, objection)

    def plan_higher_fees(
        self, transaction: Transaction, chain: Chain, latest: SignedTransaction
    ) -> AttemptPlan | None:
        """
        Plan *latest* again with both fees raised.

        Return None if the fees would exceed the network's cap, or what the address
        holds.
        """
        raised = _raise(latest, self._quote(transaction, latest.kind, chain), chain)
        attempt = raised and _follow(latest, latest.gas_limit, raised)
        if attempt is None or not _is_affordable(transaction, attempt, chain):
            self._log.error(
                "refund-stuck-at-fee-cap",
                **transaction.names,
                nonce=latest.nonce,
            )
            return None
        return AttemptPlan(transaction, attempt)

    def plan_repricing(
        self, transaction: Transaction, chain: Chain, latest: SignedTransaction
    ) -> AttemptPlan | None:
        """
        Plan what replaces *latest* if no node should accept *latest*.

        That is so if it costs more than its address holds, or if its gas limit is less,
        or over twice as much, as its transfer needs.  Its fees may then be lower than
        those of *latest*.  The values of a quorum decide.  A node's error message does
        not decide.

        Return None if *latest* is acceptable, or if the address cannot pay for the
        replacement either.
        """
        quote = self._quote(transaction, latest.kind, chain)
        gas = _find_gas(transaction, chain, latest)
        attempt = _follow(latest, gas, quote)
        balance = chain.client.balance(latest.sender)
        rejected_cost = _cost(
            transaction, latest.kind, latest.gas_limit, latest.max_fee_per_gas
        )
        if gas == latest.gas_limit and rejected_cost <= balance:
            return None
        cost = _cost(transaction, attempt.kind, attempt.gas, attempt.max_fee)
        return AttemptPlan(transaction, attempt) if cost <= balance else None

    def plan_rejected(
        self,
        transaction: Transaction,
        chain: Chain,
        latest: SignedTransaction,
        error: ChainError | None,
    ) -> AttemptPlan | None:
        """
        Plan what replaces *latest*, for which no node accepts it: *error* says why.

        It is ``plan_repricing``, or a no-op if nodes still refuse a batch when it is
        stuck: its payments are queued again, for smaller ones.  Nodes have bounds of
        their own for gas and cost.
        """
        if not isinstance(error, BroadcastRejectedError):
            return None
        plan = self.plan_repricing(transaction, chain, latest)
        is_batch = latest.kind is Kind.TRANSFER and len(transaction.payments) > 1
        age = abs(self._clock() - transaction.created_at)
        if plan is not None or not (
            is_batch
            and error.reason == "other"
            and age >= timedelta(seconds=chain.network.stuck_after_seconds)
        ):
            return plan
        objection = build_objection(error.code, str(error))
        return self.plan_noop(transaction, chain, latest, objection)

    def plan_noop(
        self,
        transaction: Transaction,
        chain: Chain,
        latest: SignedTransaction,
        objection: Objection,
    ) -> AttemptPlan:
        """
        Plan a no-op in place of a broadcast transfer that must not be made any more.

        Its fees are higher than the transfer's.  At the network's cap they are equal:
        nodes accept the no-op once they have dropped the transfer.
        """
        quote = self._quote(transaction, Kind.NOOP, chain)
        unchanged = latest.max_fee_per_gas, latest.max_priority_fee_per_gas, quote[2]
        fees = _raise(latest, quote, chain) or unchanged
        attempt = replace(_follow(latest, chain.network.noop_gas, fees), kind=Kind.NOOP)
        return AttemptPlan(transaction, attempt, objection)

    def _quote(self, transaction: Transaction, kind: Kind, chain: Chain) -> _Quote:
        fees = self.current_fees(chain)
        max_fee, priority_fee = quote_fees(fees, chain.network)
        # A no-op may not wait: it competes with a transfer that must not be made.
        if kind is Kind.TRANSFER:
            first, *_ = transaction.payments
            self.gas_price_check.require_normal(
                first, chain, transaction.sender, max_fee
            )
        return max_fee, priority_fee, fees.is_legacy

    def _find_objection(
        self, transaction: Transaction, attempt: Attempt, chain: Chain
    ) -> Objection | None:
        objection = self._transaction_signer.find_ring_objection(transaction)
        if objection is not None or transaction.kind is not TransactionKind.COIN:
            return objection
        balance = chain.client.balance(transaction.sender)
        return find_fee_objection(
            transaction.payment, balance, gas=NOOP_GAS, max_fee=attempt.max_fee
        )


def _raise(latest: SignedTransaction, quote: _Quote, chain: Chain) -> _Quote | None:
    max_fee, priority_fee, is_legacy = quote
    raised = bump_fees(
        latest.max_fee_per_gas,
        latest.max_priority_fee_per_gas,
        (max_fee, priority_fee),
        chain.network,
    )
    return raised and (*raised, is_legacy)


def _follow(latest: SignedTransaction, gas: int, fees: _Quote) -> Attempt:
    """Return the attempt after *latest*, of the same kind."""
    return Attempt(latest.kind, latest.attempt + 1, gas, *fees)


def _find_gas(transaction: Transaction, chain: Chain, latest: SignedTransaction) -> int:
    """Return the gas limit of *latest*, unless the transfer needs another one."""
    # A vault reverts a batch with too little gas, and the next one has more.
    if latest.kind is Kind.NOOP or transaction.kind is TransactionKind.BATCH:
        return latest.gas_limit
    try:
        estimate = estimate_gas(transaction.payment, chain, latest.sender)
        gas = bound_gas(estimate, transaction.payment, chain)
    except (ExecutionRevertedError, GasLimitError, InsufficientFundsError):
        return latest.gas_limit  # It cannot be estimated now.
    # A limit that is a little higher than needed costs nothing.
    return latest.gas_limit if estimate <= latest.gas_limit <= 2 * gas else gas


def _is_affordable(transaction: Transaction, attempt: Attempt, chain: Chain) -> bool:
    cost = _cost(transaction, attempt.kind, attempt.gas, attempt.max_fee)
    return cost <= chain.client.balance(transaction.sender)


def _cost(transaction: Transaction, kind: Kind, gas: int, max_fee: int) -> int:
    """Return what an address must hold for a node to accept a transaction, in wei."""
    value = payload_of(transaction).value if kind is Kind.TRANSFER else 0
    return value + gas * max_fee
