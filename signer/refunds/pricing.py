"""
Decides kind, gas limit and fees of each transaction of a refund's nonce.

It signs and records nothing (``attempts``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from signer.chain.chain import Chain
from signer.chain.fees import bump_fees, quote_fees
from signer.crypto.transactions import MAX_GAS
from signer.errors import (
    ExecutionRevertedError,
    GasLimitError,
    InsufficientFundsError,
)
from signer.model.refund import Refund
from signer.model.transaction import Kind, SignedTransaction, TransactionKind
from signer.ports.chain import Fees
from signer.ports.clock import Clock
from signer.refunds.gas import bound_gas, estimate_gas
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.payload import payload_of
from signer.refunds.payment_checks import NOOP_GAS
from signer.refunds.sweep_policy import Objection, find_fee_objection
from signer.refunds.transaction_signer import Attempt, TransactionSigner


_Quote = tuple[int, int, bool]
"""Max fee, priority fee, and whether the transaction is a legacy one."""

_FEES_VALID_FOR = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class TransactionPlan:
    """A transaction that is to be signed, and further changes of its refund."""

    refund: Refund
    attempt: Attempt
    changes: Mapping[str, Any] = field(default_factory=dict)


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
        self._gas_price_check = gas_price_check
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
        refund: Refund,
        chain: Chain,
        kind: Kind = Kind.TRANSFER,
        changes: Mapping[str, Any] | None = None,
        *,
        largest_gas: int = MAX_GAS,
    ) -> TransactionPlan:
        """
        Plan the first transaction; a sweep that must not be made becomes a no-op.

        Its gas limit is the reserved one, and at most *largest_gas*.

        Raises:
            InsufficientFundsError: The address cannot pay for a no-op either.
        """
        reserved = refund.reserved()
        gas = (
            min(reserved.gas_limit, largest_gas) if kind is Kind.TRANSFER else NOOP_GAS
        )
        attempt = Attempt(kind, 0, gas, *self._quote(refund, kind, chain))
        objection = self._find_objection(refund, attempt, chain)
        if objection is not None:
            attempt = replace(attempt, kind=Kind.NOOP, gas=NOOP_GAS)
            changes = objection
        return TransactionPlan(refund, attempt, changes or {})

    def plan_higher_fees(
        self, refund: Refund, chain: Chain, latest: SignedTransaction
    ) -> TransactionPlan | None:
        """
        Plan *latest* again with both fees raised.

        Return None if the fees would exceed the network's cap, or what the address
        holds.
        """
        raised = _raise(latest, self._quote(refund, latest.kind, chain), chain)
        attempt = raised and _follow(latest, latest.gas_limit, raised)
        if attempt is None or not _is_affordable(refund, attempt, chain):
            self._log.error(
                "refund-stuck-at-fee-cap", refund_id=refund.id, nonce=latest.nonce
            )
            return None
        return TransactionPlan(refund, attempt)

    def plan_repricing(
        self, refund: Refund, chain: Chain, latest: SignedTransaction
    ) -> TransactionPlan | None:
        """
        Plan what replaces *latest* if no node should accept *latest*.

        That is so if it costs more than its address holds, or if its gas limit is less,
        or over twice as much, as its transfer needs.  Its fees may then be lower than
        those of *latest*.  The values of a quorum decide.  A node's error message does
        not decide.

        Return None if *latest* is acceptable, or if the address cannot pay for the
        replacement either.
        """
        quote = self._quote(refund, latest.kind, chain)
        gas = _find_gas(refund, chain, latest)
        attempt = _follow(latest, gas, quote)
        balance = chain.client.balance(latest.sender)
        rejected_cost = _cost(
            refund, latest.kind, latest.gas_limit, latest.max_fee_per_gas
        )
        if gas == latest.gas_limit and rejected_cost <= balance:
            return None
        cost = _cost(refund, attempt.kind, attempt.gas, attempt.max_fee)
        return TransactionPlan(refund, attempt) if cost <= balance else None

    def plan_noop(
        self,
        refund: Refund,
        chain: Chain,
        latest: SignedTransaction,
        objection: Mapping[str, Any],
    ) -> TransactionPlan:
        """
        Plan a no-op in place of a broadcast transfer that must not be made any more.

        Its fees are higher than the transfer's.  At the network's cap they are equal:
        nodes accept the no-op once they have dropped the transfer.
        """
        quote = self._quote(refund, Kind.NOOP, chain)
        unchanged = latest.max_fee_per_gas, latest.max_priority_fee_per_gas, quote[2]
        fees = _raise(latest, quote, chain) or unchanged
        attempt = replace(_follow(latest, NOOP_GAS, fees), kind=Kind.NOOP)
        return TransactionPlan(refund, attempt, objection)

    def _quote(self, refund: Refund, kind: Kind, chain: Chain) -> _Quote:
        fees = self.current_fees(chain)
        max_fee, priority_fee = quote_fees(fees, chain.network)
        # A no-op may not wait: it competes with a transfer that must not be made.
        if kind is Kind.TRANSFER:
            sender = str(refund.sender)
            self._gas_price_check.require_normal(refund, chain, sender, max_fee)
        return max_fee, priority_fee, fees.is_legacy

    def _find_objection(
        self, refund: Refund, attempt: Attempt, chain: Chain
    ) -> Objection | None:
        if attempt.kind is Kind.NOOP:
            return None
        objection = self._transaction_signer.find_sweep_objection(refund)
        if objection is not None or refund.kind is not TransactionKind.COIN:
            return objection
        balance, max_fee = chain.client.balance(str(refund.sender)), attempt.max_fee
        objection = find_fee_objection(refund, balance, gas=NOOP_GAS, max_fee=max_fee)
        if objection is not None and balance < NOOP_GAS * max_fee:
            raise InsufficientFundsError(
                f"{refund.sender} cannot pay for gas at the current fees: top it up"
            )
        return objection


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
    value = payload_of(refund).value if kind is Kind.TRANSFER else 0
    return value + gas * max_fee
