"""
The nonces of the active key: whether one may be given out, and who has paid already.

``watching`` compares wallets with their chains; here is what that means for a refund
that has no nonce yet.
"""

from typing import Any

import structlog

from signer.chain.chain import Chain
from signer.errors import StaleStateError, WalletPausedError
from signer.keys.keyring import ActiveKey, KeyRing
from signer.model.audit_record import Record
from signer.model.refund import Refund, Status
from signer.model.spending_limits import NO_LIMITS, Limits
from signer.model.wallet import Pause
from signer.ports import Clock, Store
from signer.refunds.former_wallets import FormerWallets
from signer.refunds.wallet_reconciliation import WalletReconciler


class NonceManager:
    """Gives out the nonces of the active key."""

    def __init__(self, store: Store, ring: KeyRing, clock: Clock) -> None:
        self._store = store
        self._ring = ring
        self._clock = clock
        self._log = structlog.get_logger("nonces")
        self.wallets = WalletReconciler(store, clock)
        self._former = FormerWallets(store, self.wallets, clock)

    def payer(self, refund: Refund) -> ActiveKey:
        """Return the key whose nonce *refund* gets; raises as ``KeyRing.active``."""
        if refund.swept_from is not None:
            return self._ring.former(refund.swept_from)
        return self._ring.active()

    def agreed(self, chain: Chain, address: str) -> int:
        """
        Return the next nonce of *address* by the chain, pools included.

        The ledger knows of it, and of all that other keys of the ring have sent.
        Before this nothing may be said of a queued refund: a ledger that was restored
        may have forgotten that it is paid.

        Raises:
            WalletPausedError: The chain knows a nonce that the ledger does not.
        """
        # The active key's own is among them, where a former one's address is swept.
        self.require_others_known(chain, address)
        counted = chain.client.pending_count(address)
        wallet = self.wallets.opened(chain, address, counted)
        if wallet.paused_by is None and counted > wallet.next_nonce:
            wallet = self.wallets.pause(wallet, Pause.CHAIN_AHEAD)
        if wallet.paused_by is not None:
            raise WalletPausedError(f"the wallet is paused: {wallet.paused_by}")
        return counted

    def require_others_known(self, chain: Chain, address: str) -> None:
        """
        Return if the ledger knows all that other keys of the ring than this have sent.

        Raises:
            WalletPausedError: It does not.
        """
        for key in self._ring.cached_keys():
            if key.epoch and key.address != address:
                self._former.require_known(chain, key)

    def reserve(
        self,
        refund: Refund,
        gas_limit: int,
        chain: Chain,
        *,
        counted: int,
        active: ActiveKey,
        intent: Record | None,
    ) -> Refund:
        """
        Give a queued refund its nonce for life, and write down that it will be signed.

        *counted* is what ``agreed`` returned of the *active* key.

        Raises:
            KeyRotatedError: It is not the active one any more; or a sweep does not pay
                the active one.
            WalletPausedError: An operator has stopped the network.
            LimitReachedError: So much may not leave at once.
            StaleStateError: Somebody else moved the refund meanwhile.
        """
        if self._store.stopped(chain.network.chain_id) is not None:
            raise WalletPausedError("an operator has stopped the network")
        reserved = self._store.reserve(
            refund,
            sender=active.key.address,
            key_id=active.key.key_id,
            gas_limit=gas_limit,
            counted=counted,
            at=self._clock(),
            limits=_limits(refund, chain),
            intent=intent,
        )
        if intent is not None:
            active.signer.tell(intent)
        return reserved

    def adopt(self, refund: Refund, chain: Chain) -> Refund | None:
        """
        Return what a queued *refund* became before the ledger forgot it.

        A final transaction with its mark has paid it: nobody who asks again is paid
        twice.  None when no such transaction was sighted.
        """
        sighting = self._store.sighting(refund.chain_id, refund.mark)
        if sighting is None:
            return None
        self._log.warning("refund-adopted", refund_id=refund.id, nonce=sighting.nonce)
        if sighting.held_by is not None:
            after = refund.moved(
                Status.REFUSED, self._clock(), **already_paid(sighting.tx_hash, chain)
            )
            self._store.save(refund, after)
            return after
        after = refund.moved(
            Status.MINED,
            self._clock(),
            sender=sighting.sender,
            key_id=self._key_id(sighting.sender),
            nonce=sighting.nonce,
            gas_limit=sighting.gas_limit,
            tx_hash=sighting.tx_hash,
            block_number=sighting.block_number,
            block_hash=sighting.block_hash,
        )
        self._store.adopt(refund, after)
        return after

    def paid_by(self, refund: Refund) -> str | None:
        """
        Return the hash of a final transaction that paid *refund* with another nonce.

        A ledger from a backup may have given it a nonce before that one was sighted.
        """
        sighting = self._store.sighting(refund.chain_id, refund.mark)
        if sighting is None:
            return None
        if (sighting.sender, sighting.nonce) == (refund.sender, refund.nonce):
            return None
        return sighting.tx_hash

    def _key_id(self, address: str) -> str:
        key = self._ring.cached_key(address)
        if key is None:
            raise StaleStateError("the key that has paid is not in the ring any more")
        return key.key_id


def _limits(refund: Refund, chain: Chain) -> Limits:
    if refund.swept_from is not None:
        return NO_LIMITS
    return Limits.of(chain.network.tokens[refund.token])


def already_paid(tx_hash: str, chain: Chain) -> dict[str, Any]:
    """
    Return why a refund is not paid by what the ledger has of it.

    Raises:
        ChainError: Whether the forgotten transaction reverted is not known.
    """
    receipt = chain.client.receipts([tx_hash]).get(tx_hash)
    if receipt is not None and not receipt.succeeded:
        # As the ledger said before it forgot: nobody is told that he was paid.
        return {
            "failure_code": "reverted",
            "failure_detail": f"transaction {tx_hash} was sent for it, and reverted",
        }
    return {
        "failure_code": "already-paid",
        "failure_detail": f"transaction {tx_hash} has paid it already",
    }
