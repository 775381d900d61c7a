"""
Takes refunds one step at a time: assign a nonce, sign, record, broadcast, follow up.

A step takes any number of refunds.  It reads what it needs once for all of them, does
one thing to the outside world, and commits one compare-and-set for each refund, in one
transaction.  A process may die between any two lines, and any number of processes may
take the same step: the store decides whose step counts, and nothing is broadcast that
is not recorded.

``queued_refunds`` assigns nonces, ``attempts`` signs, ``broadcasts`` sends,
``pending_transactions`` handles what is not mined in time, and ``confirmations`` reads
the results from the chain.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from signer.alerts import Alerts
from signer.audit.log import AuditLog
from signer.chain.chain import Chain
from signer.config.tenants import TenantRegistry
from signer.errors import (
    AuditLogUnwritableError,
    BackendUnavailableError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    HotWalletError,
    Refusal,
)
from signer.model.refund import UNSIGNED, Kind, PaymentPurpose, Refund, Status
from signer.outcomes import require
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change
from signer.refunds.attempts import Attempts
from signer.refunds.awaiting_refunds import AwaitingRefunds
from signer.refunds.broadcasts import Broadcasts
from signer.refunds.endings import Endings
from signer.refunds.fillers import Fillers
from signer.refunds.gas import bound_gas, estimate_gas
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.nonces import NonceManager, describe_earlier_payment
from signer.refunds.payment_approvals import PaymentApprovals, find_objection
from signer.refunds.payment_checks import find_violation
from signer.refunds.pending_transactions import PendingTransactions
from signer.refunds.queued_refunds import QueuedRefunds
from signer.refunds.signed_requests import SignedRequests
from signer.refunds.step_outcomes import Outcome, Outcomes
from signer.refunds.sweep_policy import build_objection
from signer.refunds.transaction_signer import TransactionSigner
from signer.refunds.transitions import MAX_RETRY_DELAY, delay_after


SIMULATION_VALID_FOR = timedelta(seconds=10)
"""How long a successful simulation of a transfer is trusted."""

MAX_OUTAGE_DELAY = timedelta(seconds=5)
"""The longest delay if nodes, device or log are down, so that an outage ends soon."""


_Step = Callable[[Sequence[Refund], Chain, Outcomes], None]


class Lifecycle:
    """Takes refunds from one status to the next."""

    def __init__(
        self,
        store: Ledger,
        chains: Mapping[str, Chain],
        transaction_signer: TransactionSigner,
        nonces: NonceManager,
        clock: Clock,
        *,
        audit: AuditLog,
        tenants: TenantRegistry,
        alerts: Alerts | None = None,
    ) -> None:
        """Take steps of refunds in *store*."""
        self._store = store
        self._chains = chains
        self._nonces = nonces
        self._clock = clock
        self._signed_requests = SignedRequests(store, tenants)
        alerts = alerts or Alerts(clock=clock)
        self._gas_price_check = GasPriceCheck(store, alerts, clock)
        policy = transaction_signer.policy
        approvals = PaymentApprovals(store, audit, alerts, clock, policy)
        self._approvals = approvals
        self._attempts = Attempts(
            store, transaction_signer, self._gas_price_check, clock, approvals
        )
        endings = Endings(store, nonces, audit, clock)
        self._awaiting = AwaitingRefunds(store, approvals, endings, clock)
        self._queued = QueuedRefunds(
            store,
            nonces,
            transaction_signer,
            attempts=self._attempts,
            gas_price_check=self._gas_price_check,
            approvals=approvals,
            endings=endings,
            clock=clock,
        )
        self._broadcasts = Broadcasts(
            store,
            nonces,
            transaction_signer,
            attempts=self._attempts,
            clock=clock,
        )
        self._pending = PendingTransactions(
            store, transaction_signer, self._attempts, nonces, clock
        )
        self._fillers = Fillers(
            store,
            nonces,
            attempts=self._attempts,
            pending=self._pending,
            clock=clock,
        )
        self._filler_steps: dict[Status, _Step] = {
            Status.QUEUED: self._fillers.hold,
            Status.RESERVED: self._fillers.sign,
        }
        self._steps: dict[Status, _Step] = {
            Status.AWAITING_APPROVAL: self._awaiting.take_step,
            Status.QUEUED: self._queued.take_step,
            Status.RESERVED: self._sign,
            Status.SIGNED: self._broadcasts.send,
            Status.BROADCAST: self._pending.take_step,
        }

    def step(self, refund: Refund) -> Refund:
        """Take the next step of one *refund*; raises its error of ``step_all``."""
        (outcome,) = self.step_all([refund])
        return require(outcome)

    def step_all(self, refunds: Sequence[Refund]) -> Sequence[Outcome]:
        """
        Take the next step of each of *refunds*, which are different ones.

        A status is unchanged if the refund has to wait.  A refund that today's networks
        file does not allow waits, in every status, until the file or the row is right
        again.

        Returns:
            For each refund, the refund after its step; or the error of the step, after
            which the refund has the same status:

            * ``RowNotAuthenticError``: Another program changed what the refund pays, or
              its tenant, which signs, did not request it.
            * ``StaleStateError``: Another process changed the refund.
            * Any other error.
        """
        outcomes = Outcomes()
        groups: dict[tuple[Status, str, bool, str | None], list[Refund]]
        groups = defaultdict(list)
        for refund in refunds:
            if refund.status not in self._steps:
                outcomes[refund.id] = refund
                continue
            with outcomes.capture(refund):
                self._require_payable(refund)
                is_filler = refund.purpose is PaymentPurpose.FILLER
                kind = refund.status, refund.network, is_filler, refund.bound_sender
                groups[kind].append(refund)
        for (status, network, *_), group in groups.items():
            self._step_group(status, self._chains[network], group, outcomes)
        return [outcomes[refund.id] for refund in refunds]

    def _step_group(
        self, status: Status, chain: Chain, group: Sequence[Refund], outcomes: Outcomes
    ) -> None:
        try:
            self._find_step(status, group)(group, chain, outcomes)
        except Exception as e:  # noqa: BLE001 - it is the outcome of the others.
            others = [refund for refund in group if refund.id not in outcomes]
            is_bug = not isinstance(e, HotWalletError)
            if is_bug and len(group) > 1 and status is not Status.RESERVED:
                # One refund's bug must not stop the others, nor sign them twice.
                for refund in others:
                    self._step_group(status, chain, [refund], outcomes)
            else:
                outcomes.update(dict.fromkeys((each.id for each in others), e))

    def _find_step(self, status: Status, group: Sequence[Refund]) -> _Step:
        is_filler = group[0].purpose is PaymentPurpose.FILLER
        is_special = is_filler and status in self._filler_steps
        return (self._filler_steps if is_special else self._steps)[status]

    def postpone(
        self, failed: Sequence[tuple[Refund, HotWalletError]]
    ) -> Sequence[HotWalletError | None]:
        """
        Release refunds to other workers, each with a delay after the error of its step.

        The delay doubles with each failure, up to ``MAX_RETRY_DELAY``, or up to
        ``MAX_OUTAGE_DELAY``.  A refund stays claimed until the claim expires if its
        result, which is that of ``RefundStore.save_all``, is an error.
        """
        changes = []
        for refund, error in failed:
            delay = delay_after(refund.attempts, _longest_delay(error))
            after = refund.with_due_at(
                self._clock() + delay,
                attempts=refund.attempts + 1,
                blocked_by=error.code,
            )
            changes.append(Change(refund, after))
        return self._store.save_all(changes)

    def _require_payable(self, refund: Refund) -> None:
        """Require that the row is authentic, and that the configuration allows it."""
        self._store.require_authentic(refund)
        chain = self._chains.get(refund.network)
        if chain is None:
            detail = f"a refund needs the network {refund.network}: put it back"
            raise ConfigurationError(Refusal("networks-misconfigured", detail))
        if refund.purpose is PaymentPurpose.FILLER:
            return  # It pays nothing.
        if refund.status is Status.AWAITING_APPROVAL:
            return  # Only a queued refund is paid, which is checked then.
        if refund.status is Status.QUEUED and refund.cancel_requested_at is not None:
            return  # It will be cancelled.
        self._signed_requests.require(refund)
        violation = find_violation(refund, chain.network)
        # A no-op, which has the reason of the failure, pays nothing.
        is_noop = refund.failure_code is not None and refund.status not in UNSIGNED
        if violation is not None and not is_noop:
            raise violation

    def _sign(
        self, refunds: Sequence[Refund], chain: Chain, outcomes: Outcomes
    ) -> None:
        just_reserved = []
        for refund in refunds:
            age = self._clock() - refund.updated_at
            is_fresh = timedelta(0) <= age <= SIMULATION_VALID_FOR
            is_checked = refund.intent is not None or (
                self._approvals.find_need(refund, chain.network) is None
            )
            if is_fresh and is_checked:
                just_reserved.append(refund)
            else:
                with outcomes.capture(refund):
                    outcomes[refund.id] = self._sign_late(refund, chain)
        self._attempts.start_all(just_reserved, chain, outcomes)

    def _sign_late(self, refund: Refund, chain: Chain) -> Refund:
        # Nonce, token and key may have changed since.  The key may have been revoked
        # after its intent to sign was recorded, so record a new one.
        refund = replace(refund, intent=None)
        settled = self._pending.handle_used_nonce(refund, chain)
        if settled is not None:
            return settled
        # A ledger that was restored from before the key was revoked has lost that the
        # refund got another nonce.
        self._nonces.require_other_wallets_known(
            chain, str(refund.sender), if_restored=True
        )
        # If the transfer must not be made, a no-op uses the nonce: otherwise all
        # higher nonces would wait without end.
        tx_hash = self._nonces.find_other_payment(refund)
        if tx_hash is not None:
            reason = describe_earlier_payment(tx_hash, chain)
            return self._attempts.start(refund, chain, Kind.NOOP, **reason)
        need = self._approvals.find_need(refund, chain.network)
        if need is not None:
            # Its approval became necessary, or was decided, after the reservation.
            objection = find_objection(self._approvals.settle(refund, need))
            if objection is not None:
                return self._attempts.start(refund, chain, Kind.NOOP, **objection)
        try:
            estimate = estimate_gas(refund, chain, str(refund.sender))
        except ExecutionRevertedError as e:
            reason = build_objection(e.code, str(e))
            return self._attempts.start(refund, chain, Kind.NOOP, **reason)
        if refund.purpose is PaymentPurpose.CALL:
            # After a restore, the reserved limit is the largest one of any call.
            gas = bound_gas(estimate, refund, chain)
            return self._attempts.start(refund, chain, largest_gas=gas)
        return self._attempts.start(refund, chain)


def _longest_delay(error: HotWalletError) -> timedelta:
    is_outage = isinstance(
        error,
        ChainUnavailableError | BackendUnavailableError | AuditLogUnwritableError,
    )
    return MAX_OUTAGE_DELAY if is_outage else MAX_RETRY_DELAY
