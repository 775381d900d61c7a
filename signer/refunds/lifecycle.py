"""
Takes a refund one step at a time: assign a nonce, sign, record, broadcast, follow up.

Each step reads the refund, does one thing to the outside world and commits one
compare-and-set.  A process may die between any two lines, and any number of processes
may take the same step: the store decides whose step counts, and nothing is broadcast
that is not recorded.  ``pending_transactions`` handles what is not mined in time, and
``confirmations`` reads the results from the chain.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from signer.alerts import Alerts
from signer.audit.log import AuditAction, AuditLog
from signer.chain.chain import Chain
from signer.chain.fees import quote_fees
from signer.config.tenants import TenantRegistry
from signer.errors import (
    BackendUnavailableError,
    BroadcastRejectedError,
    ChainUnavailableError,
    ConfigurationError,
    ExecutionRevertedError,
    HotWalletError,
    KeyRotatedError,
    Refusal,
)
from signer.model.audit_record import WORKER, Operation
from signer.model.refund import UNSIGNED, Kind, Refund, Status
from signer.ports import Clock, Store
from signer.refunds.attempts import Attempts
from signer.refunds.fee_monitor import FeeMonitor
from signer.refunds.gas import bound_gas, estimate_gas
from signer.refunds.nonces import NonceManager, describe_earlier_payment
from signer.refunds.pending_transactions import PendingTransactions, broadcast
from signer.refunds.policy import find_violation
from signer.refunds.signed_requests import SignedRequests
from signer.refunds.sweep_policy import Objection, build_objection, find_fee_objection
from signer.refunds.transaction_signer import (
    TransactionSigner,
    build_purpose,
    describe_payment,
)
from signer.refunds.transitions import REBROADCAST_AFTER, Transitions


SIMULATION_VALID_FOR = timedelta(seconds=10)
"""How long a successful simulation of a transfer is trusted."""

JUST_SIGNED = timedelta(seconds=0.5)
"""How long after their commit signed bytes may be sent without a new check for stops.

The commit itself checks."""

MAX_RETRY_DELAY = timedelta(seconds=30)
"""The longest delay after a failed step, however often it failed."""

MAX_OUTAGE_DELAY = timedelta(seconds=5)
"""The longest delay if nodes or device did not answer, so that an outage ends soon."""


class Lifecycle:
    """Takes refunds from one status to the next."""

    def __init__(  # noqa: PLR0913  Each is a part of its own.
        self,
        store: Store,
        chains: Mapping[str, Chain],
        transaction_signer: TransactionSigner,
        nonces: NonceManager,
        clock: Clock,
        *,
        audit: AuditLog,
        tenants: TenantRegistry,
        alerts: Alerts | None = None,
        answer: Callable[[Refund], str] | None = None,
    ) -> None:
        """
        *answer* makes the response to the request for a refund, which is stored when
        the refund is sent.
        """
        self._answer = answer
        self._store = store
        self._chains = chains
        self._transaction_signer = transaction_signer
        self._nonces = nonces
        self._clock = clock
        self._audit = audit
        self._signed_requests = SignedRequests(store, tenants)
        self._transitions = Transitions(store, clock)
        self._fee_monitor = FeeMonitor(store, alerts or Alerts(clock=clock), clock)
        self._attempts = Attempts(store, transaction_signer, self._fee_monitor, clock)
        self._pending = PendingTransactions(
            store, transaction_signer, self._attempts, nonces, clock
        )
        self._steps = {
            Status.QUEUED: self._assign_nonce,
            Status.RESERVED: self._sign,
            Status.SIGNED: self._broadcast,
            Status.BROADCAST: self._pending.rebroadcast_or_replace,
        }

    def step(self, refund: Refund) -> Refund:
        """
        Take the next step of *refund*, and return the refund after it.

        The status is unchanged if the refund has to wait.  A refund that today's
        networks file does not allow waits, in every status, until the file or the
        row is right again.

        Raises:
            RowNotAuthenticError: Another program changed what the refund pays, or its
                tenant, which signs, did not request it.
            StaleStateError: Another process changed the refund.
            HotWalletError: The step failed; the refund keeps its status.
        """
        take = self._steps.get(refund.status)
        if take is None:
            return refund
        self._store.require_authentic(refund)
        chain = self._chain(refund)
        if refund.status is Status.QUEUED and refund.cancel_requested_at is not None:
            return self._cancel(refund, chain)
        self._signed_requests.require(refund)
        violation = find_violation(refund, chain.network)
        # A no-op, which has the reason of the failure, pays nothing.
        is_noop = refund.failure_code is not None and refund.status not in UNSIGNED
        if violation is not None and not is_noop:
            raise violation
        return take(refund, chain)

    def postpone(self, refund: Refund, error: HotWalletError | None = None) -> Refund:
        """
        Release *refund* to other workers: at once, or with a delay after *error*.

        The delay doubles with each failure, up to ``MAX_RETRY_DELAY``, or up to
        ``MAX_OUTAGE_DELAY``.  If this raises a ``StoreError``, the refund stays claimed
        until the claim expires.
        """
        after = refund.with_due_at(self._clock())
        if error is not None:
            after = refund.with_due_at(
                self._clock() + _delay_after(refund.attempts, _longest_delay(error)),
                attempts=refund.attempts + 1,
                blocked_by=error.code,
            )
        self._store.save(refund, after)
        return after

    def _chain(self, refund: Refund) -> Chain:
        chain = self._chains.get(refund.network)
        if chain is None:
            detail = f"a refund needs the network {refund.network}: put it back"
            raise ConfigurationError(Refusal("networks-misconfigured", detail))
        return chain

    def _cancel(self, refund: Refund, chain: Chain) -> Refund:
        """
        Cancel a queued *refund*, unless the chain shows that it is paid.

        A ledger that was restored from a backup may have lost the payment.
        """
        active = self._nonces.select_key(refund)
        self._nonces.check_against_chain(chain, active.key.address)
        adopted = self._nonces.adopt_earlier_payment(refund, chain)
        if adopted is not None:
            return adopted
        record = self._audit.result(
            AuditAction.REFUND_CANCEL,
            Operation.REFUND,
            WORKER,
            refund_id=refund.id,
            network=refund.network,
            **describe_payment(refund),
        )
        cancelled = self._transitions.move(refund, Status.CANCELLED, record=record)
        self._audit.log(record)
        return cancelled

    def _assign_nonce(self, refund: Refund, chain: Chain) -> Refund:
        try:
            return self._check_and_assign_nonce(refund, chain)
        except KeyRotatedError:
            # The key was rotated meanwhile.  If that happens again, the refund waits.
            return self._check_and_assign_nonce(refund, chain)

    def _check_and_assign_nonce(self, refund: Refund, chain: Chain) -> Refund:
        objection = self._transaction_signer.find_sweep_objection(refund)
        if objection is not None:
            # Refuse an outdated sweep even while its wallet or network is paused.
            adopted = self._nonces.adopt_earlier_payment(refund, chain)
            return adopted or self._transitions.move(
                refund, Status.REFUSED, **objection
            )
        active = self._nonces.select_key(refund)
        sender = active.key.address
        counted = self._nonces.check_against_chain(chain, sender)
        adopted = self._nonces.adopt_earlier_payment(refund, chain)
        if adopted is not None:
            return adopted
        try:
            estimate = estimate_gas(refund, chain, sender)
        except ExecutionRevertedError as e:
            # Do not use a nonce for a transfer that the token would refuse.
            return self._transitions.move(
                refund, Status.REFUSED, **build_objection(e.code, str(e))
            )
        gas = bound_gas(estimate, refund, chain)
        self._fee_monitor.recheck(refund, chain, sender)
        objection = _find_fee_objection(refund, chain, gas)
        if objection is not None:
            return self._transitions.move(refund, Status.REFUSED, **objection)
        purpose = build_purpose(refund, epoch=active.key.epoch or 0)
        is_sweep = refund.swept_from is not None
        return self._nonces.assign_nonce(
            refund,
            gas,
            chain,
            counted=counted,
            active=active,
            # A sweep records its intent when it is signed: until then, the ring may not
            # change, which is checked with that record.
            intent=None if is_sweep else active.signer.intent(purpose),
        )

    def _sign(self, refund: Refund, chain: Chain) -> Refund:
        age = self._clock() - refund.updated_at
        if timedelta(0) <= age <= SIMULATION_VALID_FOR:
            return self._attempts.start(refund, chain)
        # Nonce, token and key may have changed since.  The key may have been revoked
        # after its intent to sign was recorded, so record a new one.
        refund = replace(refund, intent_recorded=False)
        settled = self._pending.handle_used_nonce(refund, chain)
        if settled is not None:
            return settled
        # A ledger that was restored from before the key was revoked has lost that the
        # refund got another nonce.
        self._nonces.require_other_wallets_known(chain, str(refund.sender))
        # If the transfer must not be made, a no-op uses the nonce: otherwise all
        # higher nonces would wait without end.
        tx_hash = self._nonces.find_other_payment(refund)
        if tx_hash is not None:
            reason = describe_earlier_payment(tx_hash, chain)
            return self._attempts.start(refund, chain, Kind.NOOP, **reason)
        try:
            estimate_gas(refund, chain, str(refund.sender))
        except ExecutionRevertedError as e:
            reason = build_objection(e.code, str(e))
            return self._attempts.start(refund, chain, Kind.NOOP, **reason)
        return self._attempts.start(refund, chain)

    def _broadcast(self, refund: Refund, chain: Chain) -> Refund:
        if self._clock() - refund.updated_at > JUST_SIGNED:
            # These bytes were never sent: a stop keeps them back as well.
            self._nonces.require_running(refund)
        latest = self._attempts.latest(refund)
        is_transfer = latest.kind is Kind.TRANSFER
        if is_transfer and self._transaction_signer.find_sweep_objection(refund):
            # Do not broadcast it; the next step replaces it with a no-op.
            return self._transitions.move(
                refund, Status.BROADCAST, due_at=self._clock(), answer=self._answer
            )
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        due_at = self._clock() + min(REBROADCAST_AFTER, stuck_after)
        try:
            broadcast(latest, chain)
        except BroadcastRejectedError:
            if self._attempts.find_repricing(refund, chain, latest) is None:
                raise
            # The next step signs it again.  A node that rejects everything must not
            # cause one signature after another.
            due_at = self._clock() + _delay_after(latest.attempt)
        return self._transitions.move(
            refund, Status.BROADCAST, due_at=due_at, answer=self._answer
        )


def _delay_after(failures: int, longest: timedelta = MAX_RETRY_DELAY) -> timedelta:
    return min(timedelta(seconds=2 ** min(failures, 10)), longest)


def _find_fee_objection(refund: Refund, chain: Chain, gas: int) -> Objection | None:
    """Return why a queued sweep cannot be paid at the current fees."""
    if refund.swept_from is None:
        return None
    max_fee, _ = quote_fees(chain.client.fees(), chain.network)
    balance = chain.client.balance(refund.swept_from)
    return find_fee_objection(refund, balance, gas=gas, max_fee=max_fee)


def _longest_delay(error: HotWalletError) -> timedelta:
    is_outage = isinstance(error, ChainUnavailableError | BackendUnavailableError)
    return MAX_OUTAGE_DELAY if is_outage else MAX_RETRY_DELAY
