"""
One refund, one step at a time: reserve, sign, record, broadcast, look after.

Every step reads the refund, does one thing to the outside world, and commits one
compare-and-set.  A process may die between any two lines, and any number of
processes may take the same step at once: the store decides whose step counts,
and whatever was not recorded was not sent.  ``attending`` looks after what is not
mined in time; ``tracking`` has the other half: what the chain says of what was sent.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from signer.chain.chain import Chain
from signer.chain.fees import gas_limit
from signer.errors import (
    ConfigurationError,
    ExecutionRevertedError,
    HotWalletError,
    InsufficientFundsError,
    KeyRotatedError,
    Refusal,
)
from signer.model.audit_record import Actor
from signer.model.refund import Kind, Refund, Status
from signer.ports import Call, Clock, Store
from signer.refunds.attempts import Attempts
from signer.refunds.nonces import NonceManager, already_paid
from signer.refunds.pending_transactions import PendingTransactions, send
from signer.refunds.policy import NOOP_GAS
from signer.refunds.transaction_signer import TransactionSigner, calldata, purpose_of
from signer.refunds.transitions import RESEND_AFTER, Transitions


FRESH = timedelta(seconds=10)
"""For how long it is believed that a transfer which could be made still can."""

LONGEST_DELAY = timedelta(seconds=30)
"""The most that is waited after a step that failed, however often it did."""


class Lifecycle:
    """Takes refunds from one state to the next."""

    def __init__(
        self,
        store: Store,
        chains: Mapping[str, Chain],
        payer: TransactionSigner,
        nonces: NonceManager,
        clock: Clock,
    ) -> None:
        self._store = store
        self._chains = chains
        self._nonces = nonces
        self._clock = clock
        self._mover = Transitions(store, clock)
        self._offers = Attempts(store, payer, clock)
        self._attendant = PendingTransactions(store, self._offers, nonces, clock)
        self._steps = {
            Status.QUEUED: self._reserve,
            Status.RESERVED: self._sign,
            Status.SIGNED: self._broadcast,
            Status.BROADCAST: self._attendant.attend,
        }

    def step(self, refund: Refund, actor: Actor) -> Refund:
        """
        Take the next step, and return the refund as it stands then.

        Its status is the same when there is nothing to do but to wait.

        Raises:
            StaleStateError: Somebody else moved the refund meanwhile.
            HotWalletError: The step failed, and left the refund where it was.
        """
        take = self._steps.get(refund.status)
        return refund if take is None else take(refund, self._chain(refund), actor)

    def cancel(self, refund: Refund) -> Refund:
        """
        Call a queued *refund* back, or find that it is paid.

        The chain is asked, since a ledger that was restored may have forgotten.

        Raises:
            StaleStateError: Somebody else moved the refund meanwhile.
            HotWalletError: Whether it is paid is not known at the moment.
        """
        active = self._nonces.payer(refund)
        chain = self._chain(refund)
        self._nonces.agreed(chain, active.key.address)
        adopted = self._nonces.adopt(refund, chain)
        return adopted or self._mover.move(refund, Status.CANCELLED)

    def postpone(self, refund: Refund, trouble: HotWalletError | None = None) -> Refund:
        """
        Leave *refund* to whoever comes next: at once, or later for each failure.

        Raises:
            StoreError: It stays with whoever has it, until that expires.
        """
        after = refund.postponed(self._clock())
        if trouble is not None:
            delay = timedelta(seconds=2 ** min(refund.attempts, 10))
            after = refund.postponed(
                self._clock() + min(delay, LONGEST_DELAY),
                attempts=refund.attempts + 1,
                blocked_by=trouble.code,
            )
        self._store.save(refund, after)
        return after

    def _chain(self, refund: Refund) -> Chain:
        chain = self._chains.get(refund.network)
        if chain is None:
            raise ConfigurationError(
                Refusal("networks-misconfigured", "a refund's network is gone")
            )
        return chain

    def _reserve(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        if not refund.is_coin and refund.token not in chain.network.tokens:
            raise ConfigurationError(
                Refusal("networks-misconfigured", "a queued refund's token is gone")
            )
        try:
            return self._reserve_now(refund, chain, actor)
        except KeyRotatedError:
            # Rotated meanwhile; twice in a row, it waits for its next turn.
            return self._reserve_now(refund, chain, actor)

    def _reserve_now(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        outdated = self._offers.outdated(refund)
        if outdated is not None:
            # Whatever keeps its wallet or its network waiting.
            ended = self._nonces.adopt(refund, chain)
            return ended or self._mover.move(refund, Status.REFUSED, **outdated)
        active = self._nonces.payer(refund)
        sender = active.key.address
        counted = self._nonces.agreed(chain, sender)
        adopted = self._nonces.adopt(refund, chain)
        if adopted is not None:
            return adopted
        try:
            estimate = self._estimate(refund, chain, sender)
        except ExecutionRevertedError as e:
            # No nonce is spent on a transfer that the token would turn down.
            return self._mover.move(refund, Status.REFUSED, **_failure(e))
        gas = estimate if refund.is_coin else gas_limit(estimate)
        unaffordable = self._offers.unaffordable(refund, chain, gas)
        if unaffordable is not None:
            return self._mover.move(refund, Status.REFUSED, **unaffordable)
        purpose = purpose_of(refund, actor, epoch=active.key.epoch or 0)
        is_sweep = refund.swept_from is not None
        return self._nonces.reserve(
            refund,
            gas,
            chain,
            counted=counted,
            active=active,
            # A sweep's waits for its signature, until which the ring must not turn.
            intent=None if is_sweep else active.signer.intent(purpose),
        )

    def _sign(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        if timedelta(0) <= self._clock() - refund.updated_at <= FRESH:
            return self._offers.first(refund, chain, actor)
        # Much may have happened since: to the nonce, to the token, and to the key, that
        # may have been given up behind the intent which was written then.
        refund = replace(refund, intended=False)
        taken = self._attendant.taken(refund, chain)
        if taken is not None:
            return taken
        # A ledger from before its key was given up forgot that it got another nonce.
        self._nonces.require_others_known(chain, str(refund.sender))
        # Its nonce must be used all the same, or everything behind it waits for ever.
        elsewhere = self._nonces.paid_by(refund)
        if elsewhere is not None:
            why = already_paid(elsewhere, chain)
            return self._offers.first(refund, chain, actor, Kind.NOOP, **why)
        try:
            self._estimate(refund, chain, str(refund.sender))
        except ExecutionRevertedError as e:
            return self._offers.first(refund, chain, actor, Kind.NOOP, **_failure(e))
        return self._offers.first(refund, chain, actor)

    def _broadcast(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        *_, latest = self._store.transactions(refund.id)
        if latest.kind is Kind.TRANSFER and self._offers.outdated(refund) is not None:
            # No node is told of it; whoever attends to it next makes it a no-op.
            return self._mover.move(refund, Status.BROADCAST, due_at=self._clock())
        send(latest, chain)
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        look_again = self._clock() + min(RESEND_AFTER, stuck_after)
        return self._mover.move(refund, Status.BROADCAST, due_at=look_again)

    def _estimate(self, refund: Refund, chain: Chain, sender: str) -> int:
        """
        Return the gas that the transfer would use; a coin's is known.

        Raises:
            ExecutionRevertedError: The token turns it down.
            InsufficientFundsError: It would not, if the wallet held enough of it.  A
                sweep waits for no more: it moves what was there.
        """
        if refund.is_coin:
            return NOOP_GAS
        try:
            return chain.client.estimate_gas(
                Call(sender, refund.token_address, calldata(refund))
            )
        except ExecutionRevertedError:
            if refund.swept_from is not None:
                raise
            # Tell an empty wallet, which somebody will fill, from a token's refusal.
            if chain.token_balance(refund.token_address, sender) < refund.amount:
                raise InsufficientFundsError(
                    "the wallet holds less than the refund"
                ) from None
            raise


def _failure(error: ExecutionRevertedError) -> dict[str, Any]:
    return {"failure_code": error.code, "failure_detail": str(error)}
