"""
Signs and records each transaction of a refund's nonce before it is broadcast.

The transactions of one nonce are its attempts: the first one, replacements with higher
fees or with another gas limit, and a no-op in place of a transfer that must not be
made.  ``pricing`` decides what each of them is.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from signer.chain.chain import Chain
from signer.crypto.transactions import MAX_GAS
from signer.errors import (
    AuditLogUnwritableError,
    BackendError,
    KeyNotFoundError,
    KeyUnusableError,
    StoreError,
    StoreUnavailableError,
    TokenStoppedError,
)
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind, SignedTransaction
from signer.outcomes import require
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.payment_approvals import PaymentApprovals
from signer.refunds.payment_checks import NOOP_GAS
from signer.refunds.pricing import Pricing, TransactionPlan
from signer.refunds.step_outcomes import Outcome, Outcomes
from signer.refunds.sweep_policy import build_objection
from signer.refunds.transaction_signer import SignedPayment, TransactionSigner


_MOST_THREADS = 64


class Attempts:
    """
    Signs and records the transactions of one nonce.

    Methods raise the errors of ``Pricing``, and:

    * ``StaleStateError``: Another process changed the refund; nothing was recorded.
    * ``ApprovalRequiredError``, ``RowNotAuthenticError``: As
      ``PaymentApprovals.require_signable``.
    * ``SigningError``: Nothing was signed.
    """

    def __init__(
        self,
        store: Ledger,
        transaction_signer: TransactionSigner,
        gas_price_check: GasPriceCheck,
        clock: Clock,
        approvals: PaymentApprovals,
    ) -> None:
        self._store = store
        self._approvals = approvals
        self._transaction_signer = transaction_signer
        self._clock = clock
        self.pricing = Pricing(transaction_signer, gas_price_check, clock)
        # It starts threads when they are needed, and keeps them with their sessions.
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "sign")
        self._recorded: dict[str, SignedTransaction] = {}  # By transaction hash.
        self._log = structlog.get_logger("refunds")

    def start(
        self,
        refund: Refund,
        chain: Chain,
        kind: Kind = Kind.TRANSFER,
        *,
        largest_gas: int = MAX_GAS,
        **changes: Any,
    ) -> Refund:
        """Record ``Pricing.plan_first``."""
        plan = self.pricing.plan_first(
            refund, chain, kind, changes, largest_gas=largest_gas
        )
        return self.record(plan, chain)

    def start_all(
        self, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
    ) -> None:
        """
        ``start`` the transfers of *refunds*.

        Raises an error if the step failed for every refund.
        """
        if not refunds:
            return
        self.pricing.current_fees(chain)  # An error concerns all.
        plans = []
        for refund in refunds:
            with outcomes.capture(refund):
                plans.append(self.pricing.plan_first(refund, chain))
        outcomes.update(self._record_all(plans, chain))

    def record(self, plan: TransactionPlan, chain: Chain) -> Refund:
        """Sign the transaction of *plan*, and return the refund with it."""
        return require(self._record_all([plan], chain)[plan.refund.id])

    def latest(self, refunds: Sequence[Refund]) -> Sequence[SignedTransaction]:
        """Return the transaction that was signed last for each of *refunds*."""
        # This process has just stored most of them: save the reads.
        known, self._recorded = self._recorded, {}
        return [
            known.get(str(refund.tx_hash)) or self._store.transactions(refund.id)[-1]
            for refund in refunds
        ]

    def _record_all(
        self, plans: Sequence[TransactionPlan], chain: Chain
    ) -> dict[str, Outcome]:
        """Sign *plans*, and record what was signed; return outcomes by refund id."""
        made = self._sign_all(plans, chain)
        outcomes: dict[str, Outcome] = {}
        changes, payments, held = [], [], []
        for plan, payment in zip(plans, made, strict=True):
            if isinstance(payment, TokenStoppedError):
                # The nonce must not hold up those of other tokens.
                reason = build_objection(payment.code, str(payment))
                noop = replace(plan.attempt, kind=Kind.NOOP, gas=NOOP_GAS)
                held.append(TransactionPlan(plan.refund, noop, reason))
                continue
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
        return outcomes | (self._record_all(held, chain) if held else {})

    def _sign_all(
        self, plans: Sequence[TransactionPlan], chain: Chain
    ) -> Sequence[SignedPayment | Exception]:
        # Of the device by address, or of the database.  Do not wait for it again.
        failures: dict[str | None, Exception] = {}

        def sign(plan: TransactionPlan) -> SignedPayment | Exception:
            sender = plan.refund.sender
            if sender in failures:
                return failures[sender]
            try:
                return self._transaction_signer.build_and_sign(
                    plan.refund,
                    plan.attempt,
                    chain.network,
                    approve=partial(self._approvals.require_signable, plan.refund),
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
                refund_id = payment.outcome.fields["refund_id"]
                self._log.warning(
                    "outcome-not-recorded", refund_id=refund_id, code=e.code
                )


def is_device_failure(error: Exception) -> bool:
    """
    Return whether *error* means that the device of a key fails or must not be asked.

    A missing or unusable key does not mean that.  Nor does a failing device of one key
    mean that of another: they may be in two regions.
    """
    is_key_error = isinstance(error, KeyNotFoundError | KeyUnusableError)
    is_failure = isinstance(error, BackendError | AuditLogUnwritableError)
    return is_failure and not is_key_error
