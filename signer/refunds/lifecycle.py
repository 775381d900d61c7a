"""
Takes a refund one step at a time: assign a nonce, sign, record, broadcast, follow up.

Each step reads the refund, does one thing to the outside world and commits one
compare-and-set.  A process may die between any two lines, and any number of processes
may take the same step: the store decides whose step counts, and nothing is broadcast
that is not recorded.  ``pending_transactions`` handles what is not mined in time, and
``confirmations`` reads the results from the chain.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from signer.chain.chain import Chain
from signer.chain.fees import add_gas_margin, quote_fees
from signer.errors import (
    ConfigurationError,
    ExecutionRevertedError,
    GasLimitError,
    HotWalletError,
    InsufficientFundsError,
    KeyRotatedError,
    Refusal,
)
from signer.model.audit_record import Actor
from signer.model.refund import Kind, Refund, Status
from signer.ports import Call, Clock, Store
from signer.refunds.attempts import Attempts
from signer.refunds.nonces import (
    NonceManager,
    describe_earlier_payment,
    require_unblocked,
)
from signer.refunds.pending_transactions import PendingTransactions, broadcast
from signer.refunds.policy import NOOP_GAS, find_violation
from signer.refunds.sweep_policy import Objection, build_objection, find_fee_objection
from signer.refunds.transaction_signer import (
    TransactionSigner,
    build_purpose,
    encode_refund,
)
from signer.refunds.transitions import REBROADCAST_AFTER, Transitions


SIMULATION_VALID_FOR = timedelta(seconds=10)
"""How long a successful simulation of a transfer is trusted."""

MAX_RETRY_DELAY = timedelta(seconds=30)
"""The longest delay after a failed step, however often it failed."""


class Lifecycle:
    """Takes refunds from one status to the next."""

    def __init__(
        self,
        store: Store,
        chains: Mapping[str, Chain],
        transaction_signer: TransactionSigner,
        nonces: NonceManager,
        clock: Clock,
    ) -> None:
        self._store = store
        self._chains = chains
        self._transaction_signer = transaction_signer
        self._nonces = nonces
        self._clock = clock
        self._transitions = Transitions(store, clock)
        self._attempts = Attempts(store, transaction_signer, clock)
        self._pending = PendingTransactions(
            store, transaction_signer, self._attempts, nonces, clock
        )
        self._steps = {
            Status.QUEUED: self._assign_nonce,
            Status.RESERVED: self._sign,
            Status.SIGNED: self._broadcast,
            Status.BROADCAST: self._pending.rebroadcast_or_replace,
        }

    def step(self, refund: Refund, actor: Actor) -> Refund:
        """
        Take the next step of *refund*, and return the refund after it.

        The status is unchanged if the refund has to wait.  A refund that today's
        networks file does not allow waits, in every status, until the file or the
        row is right again.

        Raises:
            StaleStateError: Another process changed the refund.
            HotWalletError: The step failed; the refund keeps its status.
        """
        take = self._steps.get(refund.status)
        if take is None:
            return refund
        chain = self._chain(refund)
        violation = find_violation(refund, chain.network)
        # A no-op, which has the reason of the failure, pays nothing.
        if violation is not None and refund.failure_code is None:
            raise violation
        return take(refund, chain, actor)

    def cancel(self, refund: Refund) -> Refund:
        """
        Cancel a queued *refund*, unless the chain shows that it is paid.

        A ledger that was restored from a backup may have lost the payment, so the
        chain is asked first.  If it is unknown now whether the refund is paid, or if
        another process changed the refund, this raises a ``HotWalletError``.
        """
        active = self._nonces.select_key(refund)
        chain = self._chain(refund)
        self._nonces.check_against_chain(chain, active.key.address)
        adopted = self._nonces.adopt_earlier_payment(refund, chain)
        return adopted or self._transitions.move(refund, Status.CANCELLED)

    def postpone(self, refund: Refund, error: HotWalletError | None = None) -> Refund:
        """
        Release *refund* to other workers: at once, or with a delay after *error*.

        The delay doubles with each failure, up to ``MAX_RETRY_DELAY``.  If this raises
        a ``StoreError``, the refund stays claimed until the claim expires.
        """
        after = refund.with_due_at(self._clock())
        if error is not None:
            delay = timedelta(seconds=2 ** min(refund.attempts, 10))
            after = refund.with_due_at(
                self._clock() + min(delay, MAX_RETRY_DELAY),
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

    def _assign_nonce(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        try:
            return self._check_and_assign_nonce(refund, chain, actor)
        except KeyRotatedError:
            # The key was rotated meanwhile.  If that happens again, the refund waits.
            return self._check_and_assign_nonce(refund, chain, actor)

    def _check_and_assign_nonce(
        self, refund: Refund, chain: Chain, actor: Actor
    ) -> Refund:
        objection = self._transaction_signer.find_sweep_objection(refund)
        if objection is not None:
            # Refuse an outdated sweep even while its wallet or network is paused.
            adopted = self._nonces.adopt_earlier_payment(refund, chain)
            return adopted or self._transitions.move(
                refund, Status.REFUSED, **objection
            )
        # Before anything is asked of a node: a blocked tenant may have a long queue.
        require_unblocked(self._store, refund.tenant)
        active = self._nonces.select_key(refund)
        sender = active.key.address
        counted = self._nonces.check_against_chain(chain, sender)
        adopted = self._nonces.adopt_earlier_payment(refund, chain)
        if adopted is not None:
            return adopted
        try:
            estimate = self._simulate(refund, chain, sender)
        except ExecutionRevertedError as e:
            # Do not use a nonce for a transfer that the token would refuse.
            return self._transitions.move(
                refund, Status.REFUSED, **build_objection(e.code, str(e))
            )
        gas = estimate if refund.is_coin else _bound_gas(estimate, refund, chain)
        objection = _find_fee_objection(refund, chain, gas)
        if objection is not None:
            return self._transitions.move(refund, Status.REFUSED, **objection)
        purpose = build_purpose(refund, actor, epoch=active.key.epoch or 0)
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

    def _sign(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        age = self._clock() - refund.updated_at
        if timedelta(0) <= age <= SIMULATION_VALID_FOR:
            return self._attempts.start(refund, chain, actor)
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
            return self._attempts.start(refund, chain, actor, Kind.NOOP, **reason)
        try:
            self._simulate(refund, chain, str(refund.sender))
        except ExecutionRevertedError as e:
            reason = build_objection(e.code, str(e))
            return self._attempts.start(refund, chain, actor, Kind.NOOP, **reason)
        return self._attempts.start(refund, chain, actor)

    def _broadcast(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        *_, latest = self._store.transactions(refund.id)
        is_transfer = latest.kind is Kind.TRANSFER
        if is_transfer and self._transaction_signer.find_sweep_objection(refund):
            # Do not broadcast it; the next step replaces it with a no-op.
            return self._transitions.move(
                refund, Status.BROADCAST, due_at=self._clock()
            )
        broadcast(latest, chain)
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        due_at = self._clock() + min(REBROADCAST_AFTER, stuck_after)
        return self._transitions.move(refund, Status.BROADCAST, due_at=due_at)

    def _simulate(self, refund: Refund, chain: Chain, sender: str) -> int:
        """Return the gas that the transfer would use; a coin transfer's is constant."""
        if refund.is_coin:
            return NOOP_GAS
        try:
            return chain.client.estimate_gas(
                Call(sender, refund.token_address, encode_refund(refund))
            )
        except ExecutionRevertedError:
            if refund.swept_from is not None:
                raise  # A sweep does not wait for more of the token.
            # An empty wallet can be topped up; a refusal of the token is final.
            if chain.token_balance(refund.token_address, sender) < refund.amount:
                raise InsufficientFundsError(
                    f"{sender} holds less {refund.token} than the refund: top it up"
                ) from None
            raise


def _bound_gas(estimate: int, refund: Refund, chain: Chain) -> int:
    """Return the gas limit for *estimate*, within the token's ``max_gas``."""
    largest = chain.network.tokens[refund.token].max_gas
    if estimate > largest:
        raise GasLimitError(
            f"a transfer of {refund.token} would need {estimate} gas, and its max_gas"
            f" is {largest}: check the nodes, or raise it in the networks file"
        )
    return min(add_gas_margin(estimate), largest)


def _find_fee_objection(refund: Refund, chain: Chain, gas: int) -> Objection | None:
    """Return why a queued sweep cannot be paid at the current fees."""
    if refund.swept_from is None:
        return None
    max_fee, _ = quote_fees(chain.client.fees(), chain.network)
    balance = chain.client.balance(refund.swept_from)
    return find_fee_objection(refund, balance, gas=gas, max_fee=max_fee)
