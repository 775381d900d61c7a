"""Looks after a transaction that might have been mined by now, and was not."""

from datetime import timedelta

from signer.chain.chain import Chain
from signer.errors import BroadcastRejectedError
from signer.model.audit_record import Actor
from signer.model.refund import Kind, Refund, SignedTransaction, Status
from signer.ports import Clock, MinedTransaction, Store
from signer.refunds.attempts import Attempts
from signer.refunds.nonces import NonceManager, already_paid
from signer.refunds.sweep_policy import Objection
from signer.refunds.transaction_signer import calldata
from signer.refunds.transitions import Transitions


# A node that says one of these may have another of the nonce's transactions, or have
# mined one.  Which, the chain will say; never that another nonce must be tried.
_INCONCLUSIVE = frozenset({"nonce-too-low", "underpriced"})


class PendingTransactions:
    """Sends again, raises the offer, and finds out who else used the nonce."""

    def __init__(
        self, store: Store, offers: Attempts, nonces: NonceManager, clock: Clock
    ) -> None:
        self._store = store
        self._offers = offers
        self._nonces = nonces
        self._clock = clock
        self._mover = Transitions(store, clock)

    def attend(self, refund: Refund, chain: Chain, actor: Actor) -> Refund:
        """Look after a transaction that might have been mined by now."""
        taken = self.taken(refund, chain)
        if taken is not None:
            return taken
        sent = self._store.transactions(refund.id)
        if not sent:
            # Restored from a backup, found mined, and gone again by a reorganisation.
            return self._offers.first(refund, chain, actor)
        latest = sent[-1]
        why = self._objection(refund, chain)
        if why is not None and latest.kind is Kind.TRANSFER:
            # In a race with what was sent already, which is not sent again.
            return self._offers.instead(refund, chain, actor, latest, **why)
        stuck_after = timedelta(seconds=chain.network.stuck_after_seconds)
        # Clocks are set: far off in either direction is long enough.
        if abs(self._clock() - refund.updated_at) >= stuck_after:
            replaced = self._replace(refund, chain, actor, latest)
            if replaced is not None:
                return replaced
        # Nodes forget.  The same bytes can only ever pay once.
        send(latest, chain)
        return self._mover.wait(refund)

    def _objection(self, refund: Refund, chain: Chain) -> Objection | None:
        elsewhere = self._nonces.paid_by(refund)
        if elsewhere is not None:
            return already_paid(elsewhere, chain)
        return self._offers.outdated(refund)

    def taken(self, refund: Refund, chain: Chain) -> Refund | None:
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
            return self._mover.wait(refund)
        if found.to == refund.token_address and found.data == calldata(refund):
            return self._recognise(refund, found)
        if not chain.is_final(found):
            return self._mover.wait(refund)
        self._nonces.wallets.lost(refund, found)
        return self._mover.move(
            refund,
            Status.FAILED,
            failure_code="nonce-taken",
            failure_detail=f"transaction {found.tx_hash} has the refund's nonce",
        )

    def _replace(
        self, refund: Refund, chain: Chain, actor: Actor, latest: SignedTransaction
    ) -> Refund | None:
        """Make a better offer; None when that is no use, or would pass the cap."""
        base_fee = chain.client.fees().base_fee or 0
        is_next = chain.client.transaction_count(latest.sender) == latest.nonce
        if not is_next and latest.max_fee_per_gas >= base_fee:
            return None  # It waits for those before it, not for a better price.
        return self._offers.better(refund, chain, actor, latest)

    def _recognise(self, refund: Refund, found: MinedTransaction) -> Refund:
        """Return the refund as mined by a transaction that the ledger forgot."""
        return self._mover.move(
            refund,
            Status.MINED,
            tx_hash=found.tx_hash,
            block_number=found.block.number,
            block_hash=found.block.hash,
            failure_code=None,  # A no-op was signed in its place, in vain.
            failure_detail=None,
        )


def send(latest: SignedTransaction, chain: Chain) -> None:
    """
    Hand signed bytes to the nodes; that the nonce is in use is no news.

    Raises:
        BroadcastRejectedError: For a reason that has to do with these bytes.
        ChainUnavailableError: Whether a node has them is unknown.
    """
    try:
        chain.client.broadcast(latest.raw)
    except BroadcastRejectedError as e:
        if e.reason not in _INCONCLUSIVE:
            raise
