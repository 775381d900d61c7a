"""
Signs and records each attempt of a transaction before it is broadcast.

The attempts of one nonce are the first one, replacements with higher fees or with
another gas limit, and a no-op in place of a transfer that must not be made.
``pricing`` decides what each of them is, and ``IntentChecks`` which recorded intent may
still be signed.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from threading import Lock

import structlog

from signer.chain.chain import Chain
from signer.crypto.transactions import MAX_GAS
from signer.errors import (
    ApprovalRequiredError,
    AuditLogUnwritableError,
    BackendError,
    HotWalletError,
    KeyNotFoundError,
    KeyUnusableError,
    PolicyViolationError,
    StoreError,
    StoreUnavailableError,
    TokenStoppedError,
    require,
)
from signer.model.key import SIGNING, Key, find_active_key, find_key
from signer.model.payment import PaymentPurpose
from signer.model.transaction import (
    Kind,
    SignedTransaction,
    Transaction,
    TransactionStatus,
)
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.payment_approvals import PaymentApprovals
from signer.refunds.pricing import AttemptPlan, Pricing
from signer.refunds.saved_steps import (
    Moving,
    Outcomes,
    is_just_committed,
    is_valid_since,
)
from signer.refunds.sweep_policy import Objection, build_objection
from signer.refunds.transaction_signer import SignedAttempt, TransactionSigner


class IntentChecks:
    """
    The checks of the intents to sign of a batch, by one read for all; thread-safe.

    An intent is written at the reservation, before it is known what is signed.  The
    checks of that commit are valid for a moment, and a long batch takes more time.

    They are those with which ``Journal.append`` writes a new intent: the key of the
    ring may sign under the same id, and no stop is in force.  Both are read after the
    time from which they are valid.  The commit of the signed bytes fails if a stop
    begins or the key is revoked after the read, as after the commit of an intent.
    """

    def __init__(
        self, store: Ledger, clock: Clock, transactions: Sequence[Transaction]
    ) -> None:
        self._store = store
        self._clock = clock
        self._transactions = transactions
        self._lock = Lock()
        self._read_at: datetime | None = None
        self._keys: Sequence[Key] = ()

    def allow(self, transaction: Transaction) -> bool:
        """
        Return whether *transaction* may be signed now with the intent that it has.

        If not, a new intent decides.  A stop of one token counts for all of the batch.

        Raises:
            StoreError: They cannot be read.
        """
        now = self._clock()
        if transaction.intent is None:
            return False
        if is_just_committed(transaction, now):
            return True
        with self._lock:
            now = self._clock()  # Another thread may have read meanwhile.
            if self._read_at is None or not is_valid_since(self._read_at, now):
                self._read_at, self._keys = now, self._read()
            keys = self._keys
        return _may_sign(transaction, keys)

    def _read(self) -> Sequence[Key]:
        """Return the keys of the ring; none if a stop forbids one of the batch."""
        named = " ".join(each.named for each in self._transactions)
        chain_id = self._transactions[0].chain_id
        is_stopped = self._store.find_stop(chain_id, named) is not None
        return () if is_stopped else self._store.keys()


def _may_sign(transaction: Transaction, keys: Sequence[Key]) -> bool:
    key, active = find_key(keys, transaction.sender), find_active_key(keys)
    return (
        key is not None
        and key.key_id == transaction.key_id
        and key.state in SIGNING
        and all(
            active is not None and each.recipient == active.address
            for each in transaction.payments
            if each.purpose is PaymentPurpose.SWEEP
        )
    )


_MOST_THREADS = 64


class Attempts:
    """
    Signs and records the attempts of transactions.

    Methods raise the errors of ``Pricing``, and:

    * ``StaleStateError``: Another process changed it; nothing was recorded.
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
        transaction: Transaction,
        chain: Chain,
        objection: Objection | None = None,
        *,
        largest_gas: int = MAX_GAS,
    ) -> Transaction:
        """Record ``Pricing.plan_first``."""
        plan = self.pricing.plan_first(
            transaction, chain, objection, largest_gas=largest_gas
        )
        return self.record(plan, chain)

    def start_all(
        self, transactions: Sequence[Transaction], chain: Chain, outcomes: Outcomes
    ) -> None:
        """
        ``start`` *transactions*, none of which is a no-op.

        Raises an error if the step failed for every one.
        """
        if not transactions:
            return
        self.pricing.current_fees(chain)  # An error concerns all.
        plans = []
        for transaction in transactions:
            with outcomes.capture(transaction):
                plans.append(self.pricing.plan_first(transaction, chain))
        outcomes.update(self._record_all(plans, chain))

    def record(self, plan: AttemptPlan, chain: Chain) -> Transaction:
        """Sign the attempt of *plan*, and return the transaction with it."""
        return require(self._record_all([plan], chain)[plan.transaction.id])

    def latest(
        self, transactions: Sequence[Transaction]
    ) -> Sequence[SignedTransaction]:
        """Return the attempt that was signed last of each of *transactions*."""
        # This process has just stored most of them: save the reads.
        known, self._recorded = self._recorded, {}
        return [
            known.get(str(each.tx_hash)) or self._store.attempts(each)[-1]
            for each in transactions
        ]

    def _record_all(
        self, plans: Sequence[AttemptPlan], chain: Chain
    ) -> dict[str, Transaction | Exception]:
        """Sign *plans*, and record what was signed; return outcomes by their ids."""
        made = self._sign_all(plans, chain)
        outcomes: dict[str, Transaction | Exception] = {}
        changes, payments, held = [], [], []
        for plan, payment in zip(plans, made, strict=True):
            if isinstance(payment, HotWalletError) and _needs_noop(plan, payment):
                # The nonce must not hold up those of other tokens, nor one refund of a
                # batch the others.
                reason = build_objection(payment.code, str(payment))
                noop = replace(plan.attempt, kind=Kind.NOOP, gas=chain.network.noop_gas)
                held.append(AttemptPlan(plan.transaction, noop, reason))
                continue
            if isinstance(payment, Exception):
                outcomes[plan.transaction.id] = payment
                continue
            after = plan.transaction.with_status(
                TransactionStatus.SIGNED,
                self._clock(),
                # A no-op fails no payment of a batch: each is decided about again.
                failure=None if plan.transaction.vault else plan.objection,
                tx_hash=payment.attempt.tx_hash,
            )
            changes.append(
                Change(plan.transaction, after, payment.attempt, payment.outcome)
            )
            outcomes[after.id] = after
            payments.append(payment)
        errors = self._store.save_all(changes)
        unused = []
        for change, payment, error in zip(changes, payments, errors, strict=True):
            if error is None:
                self._recorded[payment.attempt.tx_hash] = payment.attempt
                payment.audit.log(payment.outcome)
            else:
                unused.append((change.before, payment))
                outcomes[change.before.id] = error
        self._record_unused(unused)
        return outcomes | (self._record_all(held, chain) if held else {})

    def _sign_all(
        self, plans: Sequence[AttemptPlan], chain: Chain
    ) -> Sequence[SignedAttempt | Exception]:
        # Of the device by address, or of the database.  Do not wait for it again.
        failures: dict[str | None, Exception] = {}
        checks = IntentChecks(
            self._store, self._clock, [plan.transaction for plan in plans]
        )

        def sign(plan: AttemptPlan) -> SignedAttempt | Exception:
            transaction, sender = plan.transaction, plan.transaction.sender
            if sender in failures:
                return failures[sender]
            try:
                return self._transaction_signer.build_and_sign(
                    transaction,
                    plan.attempt,
                    chain.network,
                    approve=partial(self._approvals.require_signable, transaction),
                    has_intent=checks.allow,
                )
            except Exception as e:  # noqa: BLE001 - it is the outcome of this one.
                if is_device_failure(e) or isinstance(e, StoreUnavailableError):
                    failures[sender] = e
                return e

        waiting = deque(plans)
        made: dict[str, SignedAttempt | Exception] = {}

        def sign_waiting() -> None:
            with suppress(IndexError):
                while True:
                    plan = waiting.popleft()
                    made[plan.transaction.id] = sign(plan)

        threads = min(self._transaction_signer.concurrency(), len(plans))
        helpers = [self._threads.submit(sign_waiting) for _ in range(threads - 1)]
        sign_waiting()
        wait(helpers)
        return [made[plan.transaction.id] for plan in plans]

    def _record_unused(self, unused: Sequence[tuple[Moving, SignedAttempt]]) -> None:
        if not unused:
            return
        _, first = unused[0]
        try:
            # All at once, in the log that the signers of a process share: if the
            # database is down, a process that must end waits for it only once more.
            first.audit.write(*(payment.outcome for _, payment in unused))
        except StoreError as e:
            for transaction, _ in unused:
                self._log.warning(
                    "outcome-not-recorded", **transaction.names, code=e.code
                )


def _needs_noop(plan: AttemptPlan, error: HotWalletError) -> bool:
    """
    Return whether a no-op has to use the nonce of *plan*, which was not signed.

    After that of a batch, its refunds are queued again, and are decided about alone.
    """
    is_first = plan.attempt.kind is Kind.TRANSFER and not plan.attempt.number
    is_refused = isinstance(error, ApprovalRequiredError | PolicyViolationError)
    is_batch = plan.transaction.vault is not None
    return isinstance(error, TokenStoppedError) or (
        is_batch and is_first and is_refused
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
