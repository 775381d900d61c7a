"""
One refund, one step at a time: reserve, sign, record, broadcast, look after.

Every step reads the refund, does one thing to the outside world, and commits one
compare-and-set.  A process may die between any two lines, and any number of
processes may take the same step at once: the store decides whose step counts,
and whatever was not recorded was not sent.  ``tracking`` has the other half: what
the chain says of what was sent.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog

from signer.errors import (
    BroadcastRejectedError,
    ConfigurationError,
    ExecutionRevertedError,
    HotWalletError,
    InsufficientFundsError,
    Refusal,
)
from signer.ports import Call, Clock, MinedTransaction, Store
from signer.refunds.erc20 import balance_calldata
from signer.refunds.fees import gas_limit, quote, raised
from signer.refunds.nonces import Chain, Nonces, already_paid
from signer.refunds.payment import Actor, Offer, Payer, calldata
from signer.refunds.refund import Kind, Refund, SignedTransaction, Status


FRESH = timedelta(seconds=10)
"""For how long it is believed that a transfer which could be made still can."""

RESEND_AFTER = timedelta(seconds=30)
"""How long a transaction waits before the nodes are told of it again."""

LONGEST_DELAY = timedelta(seconds=30)
"""The most that is waited after a step that failed, however often it did."""

# A node that says one of these may have another of the nonce's transactions, or have
# mined one.  Which, the chain will say; never that another nonce must be tried.
_INCONCLUSIVE = frozenset({"nonce-too-low", "underpriced"})


class Lifecycle:
    """Takes refunds from one state to the next."""

    def __init__(
        self,
        store: Store,
        chains: Mapping[str, Chain],
        payer: Payer,
        nonces: Nonces,
        clock: Clock,
    ) -> None:
        self._store = store
        self._chains = chains
        self._payer = payer
        self._nonces = nonces
        self._clock = clock
        self._log = structlog.get_logger("refunds")
        self._steps = {
            Status.QUEUED: self._reserve,
            Status.RESERVED: self._sign,
            Status.SIGNED: self._broadcast,
            Status.BROADCAST: self._attend,
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
        self._nonces.agreed(self._chain(refund))
        adopted = self._nonces.adopt(refund)
        return self._move(refund, Status.CANCELLED) if adopted is None else adopted

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
        if refund.token not in chain.network.tokens:
            raise ConfigurationError(
                Refusal("networks-misconfigured", "a queued refund's token is gone")
            )
        counted = self._nonces.agreed(chain)
        adopted = self._nonces.adopt(refund)
        if adopted is not None:
            return adopted
        try:
            estimate = self._estimate(refund, chain)
        except ExecutionRevertedError as e:
            # No nonce is spent on a transfer that the token would turn down.
            return self._move(refund, Status.REFUSED, **_failure(e))
        return self._nonces.reserve(refund, gas_limit(estimate), chain, counted)

    def _sign(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        if timedelta(0) <= self._clock() - refund.updated_at <= FRESH:
            return self._offer(refund, chain, actor)
        # Much may have happened since: to the nonce, and to the token.
        taken = self._taken(refund, chain)
        if taken is not None:
            return taken
        # Its nonce must be used all the same, or everything behind it waits for ever.
        elsewhere = self._nonces.paid_by(refund)
        if elsewhere is not None:
            why = already_paid(elsewhere)
            return self._offer(refund, chain, actor, Kind.NOOP, **why)
        try:
            self._estimate(refund, chain)
        except ExecutionRevertedError as e:
            return self._offer(refund, chain, actor, Kind.NOOP, **_failure(e))
        return self._offer(refund, chain, actor)

    def _broadcast(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        *_, latest = self._store.transactions(refund.id)
        self._send(latest, chain)
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        look_again = self._clock() + min(RESEND_AFTER, stuck_after)
        return self._move(refund, Status.BROADCAST, due_at=look_again)

    def _attend(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        """Look after a transaction that might have been mined by now."""
        taken = self._taken(refund, chain)
        if taken is not None:
            return taken
        sent = self._store.transactions(refund.id)
        if not sent:
            # Restored from a backup, found mined, and gone again by a reorganisation.
            return self._offer(refund, chain, actor)
        latest = sent[-1]
        elsewhere = self._nonces.paid_by(refund)
        if elsewhere is not None and latest.kind is Kind.TRANSFER:
            # In a race with what was sent already; at the cap there is none to win.
            why = already_paid(elsewhere)
            instead = self._raise(refund, chain, actor, latest, Kind.NOOP, **why)
            return instead or self._wait(refund)
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        # Clocks are set: far off in either direction is long enough.
        if abs(self._clock() - refund.updated_at) >= stuck_after:
            replaced = self._replace(refund, chain, actor, latest)
            if replaced is not None:
                return replaced
        # Nodes forget.  The same bytes can only ever pay once.
        self._send(latest, chain)
        return self._wait(refund)

    def _replace(
        self, refund: Refund, chain: Chain, actor: Actor, latest: SignedTransaction
    ) -> Refund | None:
        """Make a better offer; None when that is no use, or would pass the cap."""
        if latest.sender != self._payer.address:
            return None  # Another key's, which can be sent again and not raised.
        base_fee = chain.client.fees().base_fee or 0
        is_next = chain.client.transaction_count(latest.sender) == latest.nonce
        if not is_next and latest.max_fee_per_gas >= base_fee:
            return None  # It waits for those before it, not for a better price.
        return self._raise(refund, chain, actor, latest, latest.kind)

    def _raise(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        latest: SignedTransaction,
        kind: Kind,
        **changes: Any,
    ) -> Refund | None:
        """Sign once more, with both fees raised; None when that would pass the cap."""
        fees = chain.client.fees()
        price = raised(
            latest.max_fee_per_gas,
            latest.max_priority_fee_per_gas,
            quote(fees, chain.network),
            chain.network,
        )
        if price is None:
            self._log.error(
                "refund-stuck-at-fee-cap", refund_id=refund.id, nonce=latest.nonce
            )
            return None
        offer = Offer(kind, latest.attempt + 1, *price, fees.base_fee is None)
        return self._record(refund, offer, chain, actor, **changes)

    def _offer(
        self,
        refund: Refund,
        chain: Chain,
        actor: Actor,
        kind: Kind = Kind.TRANSFER,
        **changes: Any,
    ) -> Refund:
        fees = chain.client.fees()
        price = quote(fees, chain.network)
        offer = Offer(kind, 0, *price, fees.base_fee is None)
        return self._record(refund, offer, chain, actor, **changes)

    def _record(
        self,
        refund: Refund,
        offer: Offer,
        chain: Chain,
        actor: Actor,
        **changes: Any,
    ) -> Refund:
        signed = self._payer.sign(refund, offer, chain.network, actor)
        after = refund.moved(
            Status.SIGNED, self._clock(), tx_hash=signed.tx_hash, **changes
        )
        self._store.save(refund, after, signed)
        return after

    def _estimate(self, refund: Refund, chain: Chain) -> int:
        """
        Return the gas that the transfer would use.

        Raises:
            ExecutionRevertedError: The token turns it down.
            InsufficientFundsError: It would not, if the wallet held enough of it.
        """
        sender = self._payer.address
        try:
            return chain.client.estimate_gas(
                Call(sender, refund.token_address, calldata(refund))
            )
        except ExecutionRevertedError:
            # Tell an empty wallet, which somebody will fill, from a token's refusal.
            call = Call(None, refund.token_address, balance_calldata(sender))
            if int.from_bytes(chain.client.call(call), "big") < refund.amount:
                raise InsufficientFundsError(
                    "the wallet holds less than the refund"
                ) from None
            raise

    def _taken(self, refund: Refund, chain: Chain) -> Refund | None:
        """
        Return what becomes of a refund whose nonce is used; None while it is not.

        Only a *final* transaction that is none of ours fails it: receipts may be
        late, and nodes behind, for a long time.
        """
        sender, nonce, _ = refund.reservation()
        if chain.client.transaction_count(sender) <= nonce:
            return None
        ours = {sent.tx_hash for sent in self._store.transactions(refund.id)}
        found = chain.client.find_transaction(sender, nonce)
        if found is None or found.tx_hash in ours:
            return self._wait(refund)
        if found.to == refund.token_address and found.data == calldata(refund):
            return self._recognise(refund, found)
        if not chain.is_final(found):
            return self._wait(refund)
        self._nonces.lost(refund, found)
        return self._move(
            refund,
            Status.FAILED,
            failure_code="nonce-taken",
            failure_detail=f"transaction {found.tx_hash} has the refund's nonce",
        )

    def _recognise(self, refund: Refund, found: MinedTransaction) -> Refund:
        """Return the refund as mined by a transaction that the ledger forgot."""
        return self._move(
            refund,
            Status.MINED,
            tx_hash=found.tx_hash,
            block_number=found.block.number,
            block_hash=found.block.hash,
            failure_code=None,  # A no-op was signed in its place, in vain.
            failure_detail=None,
        )

    def _send(self, latest: SignedTransaction, chain: Chain) -> None:
        try:
            chain.client.broadcast(latest.raw)
        except BroadcastRejectedError as e:
            if e.reason not in _INCONCLUSIVE:
                raise

    def _wait(self, refund: Refund) -> Refund:
        after = refund.postponed(self._clock() + RESEND_AFTER)
        self._store.save(refund, after)
        return after

    def _move(self, refund: Refund, status: Status, **changes: Any) -> Refund:
        after = refund.moved(status, self._clock(), **changes)
        self._store.save(refund, after)
        if status.is_final:
            tell_end(self._log, after)
        return after


def tell_end(log: structlog.stdlib.BoundLogger, refund: Refund) -> None:
    """Log that *refund* is at its end; a failed one is for somebody to look at."""
    tell = log.error if refund.status is Status.FAILED else log.info
    tell(
        "refund-ended",
        refund_id=refund.id,
        status=str(refund.status),
        code=refund.failure_code,
    )


def _failure(error: ExecutionRevertedError) -> dict[str, Any]:
    return {"failure_code": error.code, "failure_detail": str(error)}
