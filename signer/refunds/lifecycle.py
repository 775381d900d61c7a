"""
The life of a refund, from its acceptance to its confirmation.

1. *Accept*: the API stores the refund (``acceptance``), perhaps with a proposal for an
   administrator.  From here on only workers move it.
2. *Approve*: people decide about those that need it (``awaiting_refunds``).
3. *Reserve*: a refund gets its place in a transaction of the active key, under the
   limits, with the audit record of the intent to sign (``queued_refunds``).
4. *Sign*, *record*: the device signs, and the bytes are stored before any node sees
   them (``first_signatures``, ``attempts``).
5. *Broadcast*: the stored bytes go to the nodes (``broadcasts``).
6. *Follow*: what is not mined in time is sent again or replaced, under the same nonce
   (``pending_transactions``).
7. *Confirm*: the receipt at depth decides (``confirmations``).

A step takes any number of refunds.  It reads what it needs once for all of them, does
one thing to the outside world, and commits one compare-and-set for each refund, in one
transaction.  A process may die between any two lines, and any number of processes may
take the same step: the store decides whose step counts.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
    HotWalletError,
    Refusal,
)
from signer.model.refund import UNSIGNED, PaymentPurpose, Refund, Status
from signer.outcomes import require
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change
from signer.refunds.attempts import Attempts
from signer.refunds.awaiting_refunds import AwaitingRefunds
from signer.refunds.broadcasts import Broadcasts
from signer.refunds.endings import Endings
from signer.refunds.fillers import Fillers
from signer.refunds.first_signatures import FirstSignatures
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.nonces import NonceManager
from signer.refunds.payment_approvals import PaymentApprovals
from signer.refunds.payment_checks import find_violation
from signer.refunds.pending_transactions import PendingTransactions
from signer.refunds.queued_refunds import QueuedRefunds
from signer.refunds.saved_steps import MAX_RETRY_DELAY, delay_after
from signer.refunds.signed_requests import SignedRequests
from signer.refunds.step_outcomes import Outcome, Outcomes
from signer.refunds.transaction_signer import TransactionSigner


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
        self._clock = clock
        self._signed_requests = SignedRequests(store, tenants)
        alerts = alerts or Alerts(clock=clock)
        gas_price_check = GasPriceCheck(store, alerts, clock)
        policy = transaction_signer.policy
        approvals = PaymentApprovals(store, audit, alerts, clock, policy)
        attempts = Attempts(
            store, transaction_signer, gas_price_check, clock, approvals
        )
        endings = Endings(store, nonces, audit, clock)
        awaiting = AwaitingRefunds(store, approvals, endings, clock)
        queued = QueuedRefunds(
            store,
            nonces,
            transaction_signer,
            attempts=attempts,
            gas_price_check=gas_price_check,
            approvals=approvals,
            endings=endings,
            clock=clock,
        )
        broadcasts = Broadcasts(
            store,
            nonces,
            transaction_signer,
            attempts=attempts,
            clock=clock,
        )
        pending = PendingTransactions(
            store, transaction_signer, attempts, nonces, clock
        )
        self._signatures = FirstSignatures(
            nonces, approvals, attempts=attempts, pending=pending, clock=clock
        )
        fillers = Fillers(
            store, nonces, attempts=attempts, pending=pending, clock=clock
        )
        self._steps: dict[Status, _Step] = {
            Status.AWAITING_APPROVAL: awaiting.take_step,
            Status.QUEUED: queued.take_step,
            Status.RESERVED: self._signatures.sign,
            Status.SIGNED: broadcasts.send,
            Status.BROADCAST: pending.take_step,
        }
        # They pay nothing: their nonces are known, and get a no-op.
        self._filler_steps = self._steps | {
            Status.QUEUED: fillers.hold,
            Status.RESERVED: fillers.sign,
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
        is_filler = group[0].purpose is PaymentPurpose.FILLER
        steps = self._filler_steps if is_filler else self._steps
        try:
            steps[status](group, chain, outcomes)
        except Exception as e:  # noqa: BLE001 - it is the outcome of the others.
            others = [refund for refund in group if refund.id not in outcomes]
            is_bug = not isinstance(e, HotWalletError)
            if is_bug and len(group) > 1 and status is not Status.RESERVED:
                # One refund's bug must not stop the others, nor sign them twice.
                for refund in others:
                    self._step_group(status, chain, [refund], outcomes)
            else:
                outcomes.update(dict.fromkeys((each.id for each in others), e))

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
            delay = delay_after(refund.moving.attempts, _longest_delay(error))
            after = refund.with_due_at(
                self._clock() + delay,
                attempts=refund.moving.attempts + 1,
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


def _longest_delay(error: HotWalletError) -> timedelta:
    is_outage = isinstance(
        error,
        ChainUnavailableError | BackendUnavailableError | AuditLogUnwritableError,
    )
    return MAX_OUTAGE_DELAY if is_outage else MAX_RETRY_DELAY
