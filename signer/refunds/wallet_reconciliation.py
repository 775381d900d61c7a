"""
Watches over the wallets: what each chain knows of them, and what the ledger does.

While the chain knows nonces that the ledger does not, a wallet is *paused*: nothing
new gets a nonce, and what has one goes on.  The unknown transactions are sighted one by
one, once they are final.  Those that carry a refund's mark are our own, forgotten by a
backup; a wallet that misses nothing else resumes by itself.  Anything foreign waits for
a person: ``hotwallet nonce repair``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog

from signer.chain.chain import Chain
from signer.chain.erc20 import mark_of
from signer.errors import NotFoundError, StaleStateError, WalletPausedError
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from signer.ports import Clock, MinedTransaction, Store


HISTORY = 1000
"""How many nonces back a ledger looks that begins with a wallet in use."""

_SIGHTINGS_AT_ONCE = 20

_MOST_CONTESTED = 100


@dataclass(frozen=True, slots=True)
class WalletStatus:
    """
    What the chain says of a wallet, beside what the ledger says.

    ``counted`` is the next nonce by the chain, pools included.  ``foreign`` are final
    transactions with this key that this service did not make, and that nobody accepted
    yet.  ``gaps`` are nonces below the ledger's next one that nothing there has: those
    of refunds that were queued again when the key was given up.
    """

    wallet: Wallet
    counted: int
    foreign: tuple[UnrecordedTransaction, ...]
    gaps: int = 0

    @property
    def unseen(self) -> int:
        """How many of the chain's nonces the ledger does not know yet."""
        return max(0, self.counted - self.wallet.next_nonce) + self.gaps


class WalletReconciler:
    """Compares wallets with their chains; pauses, sights and resumes them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("nonces")

    def lost(self, refund: Refund, found: MinedTransaction) -> None:
        """Write down that *found*, final and not for *refund*, has its nonce."""
        sighting = self._sighting(refund.chain_id, found)
        wallet = self._wallet(refund.chain_id, found.sender)
        self._store.sight(wallet, [sighting])
        if sighting.mark is None and wallet.paused_by is None:
            wallet = self._wallet(refund.chain_id, found.sender)
            self.pause(wallet, Pause.FOREIGN_TRANSACTION)

    def watch(self, chain: Chain, address: str) -> WalletStatus:
        """
        Compare chain and ledger; pause, sight and resume as need be.

        Returns:
            How things stand then.

        Raises:
            StaleStateError: Somebody else did so at the same time.
        """
        standing = self.standing(chain, address)
        wallet = standing.wallet
        if wallet.paused_by is None and not standing.unseen:
            return standing
        if wallet.paused_by is None:
            wallet = self.pause(wallet, Pause.CHAIN_AHEAD)
        self.catch_up(wallet, standing.counted, chain)
        standing = self.standing(chain, address)
        if standing.unseen or standing.foreign or self._contested(chain, address):
            return standing
        self.resume(standing, chain)
        return self.standing(chain, address)

    def is_settled(self, chain: Chain, address: str) -> bool:
        """
        Say whether chain and ledger agree about the wallet of a former key.

        It is watched on the way, and opened if the ledger never knew it: one that was
        restored may have forgotten all that it paid.

        Raises:
            StaleStateError: Somebody else did so at the same time.
        """
        counted = chain.client.pending_count(address)
        if counted == 0 and not self._store.wallet(chain.network.chain_id, address):
            return True
        self.opened(chain, address, counted)
        standing = self.watch(chain, address)
        return standing.wallet.paused_by is None and not standing.unseen

    def conclude(self, chain: Chain, wallet: Wallet, below: int) -> bool:
        """
        Pause *wallet* no longer, if nothing of the nonces *below* is unknown.

        All that is foreign is accepted: the key was given up.

        Returns:
            Whether it was so.

        Raises:
            StaleStateError: Somebody else changed it.
        """
        unheld = self._store.unheld(wallet.chain_id, wallet.sender, below, 1)
        if unheld or self._contested(chain, wallet.sender):
            return False
        self._accept(wallet)
        return True

    def standing(self, chain: Chain, address: str) -> WalletStatus:
        """
        Compare chain and ledger, and change nothing.

        Raises:
            NotFoundError: The wallet never paid here.
        """
        chain_id = chain.network.chain_id
        # The chain first: what we spend after that, the ledger knows before the chain.
        counted = chain.client.pending_count(address)
        wallet = self._store.wallet(chain_id, address)
        if wallet is None:
            raise NotFoundError("the wallet has not paid on this network yet")
        foreign = tuple(self._store.foreign(chain_id, address))
        gaps = 0
        if wallet.paused_by is not None:
            below = min(counted, wallet.next_nonce)
            gaps = len(self._store.unheld(chain_id, address, below, HISTORY))
        return WalletStatus(wallet, counted, foreign, gaps)

    def resume(self, standing: WalletStatus, chain: Chain) -> None:
        """
        Let the wallet go on, with everything foreign accepted.

        Raises:
            WalletPausedError: The ledger has not caught up with the chain yet.
            StaleStateError: The wallet changed since *standing*.
        """
        if standing.unseen:
            raise WalletPausedError(
                f"{standing.unseen} of the chain's transactions are not final yet,"
                " or not looked at"
            )
        if contested := self._contested(chain, standing.wallet.sender):
            raise WalletPausedError(
                f"nonce {contested[0].nonce} of refund {contested[0].id} is used, and"
                " not by what the ledger knows: a worker will find out by what"
            )
        self._accept(standing.wallet)

    def _accept(self, wallet: Wallet) -> None:
        foreign = self._store.foreign(wallet.chain_id, wallet.sender)
        self._store.resume(wallet, self._clock())
        self._log.warning(
            "wallet-resumed",
            chain_id=wallet.chain_id,
            accepted=[sighting.tx_hash for sighting in foreign],
        )

    def _contested(self, chain: Chain, address: str) -> Sequence[Refund]:
        """
        Return open refunds whose nonce the chain has used, and not by what we know.

        Perhaps by another refund's transaction that the ledger forgot, which must be
        sighted before anybody asks again for what it has paid.
        """
        counted = chain.client.transaction_count(address)
        chain_id = chain.network.chain_id
        below = self._store.open_below(chain_id, address, counted, _MOST_CONTESTED)
        unseen = [refund for refund in below if refund.status is not Status.MINED]
        hashes = {
            refund.id: {sent.tx_hash for sent in self._store.transactions(refund.id)}
            for refund in unseen
        }
        mined = chain.client.receipts(sorted(set().union(*hashes.values())))
        return [refund for refund in unseen if not hashes[refund.id] & mined.keys()]

    def opened(self, chain: Chain, address: str, counted: int) -> Wallet:
        """
        Return the wallet of *address*; open it if nobody did.

        *counted* is the chain's next nonce for it.
        """
        chain_id = chain.network.chain_id
        wallet = self._store.wallet(chain_id, address)
        if wallet is not None:
            return wallet
        # A ledger that is lost altogether looks like a new one.  What the wallet paid
        # must be sighted first, in case that somebody asks for it again.
        first = max(0, counted - HISTORY)
        reason = Pause.UNKNOWN_HISTORY if counted else None
        paused_at = self._clock() if reason else None
        self._store.open_wallet(
            Wallet(chain_id, address, first, first, reason, paused_at)
        )
        opened = self._wallet(chain_id, address)
        if opened.paused_by is not None:
            self._tell(opened)
        return opened

    def _wallet(self, chain_id: int, address: str) -> Wallet:
        wallet = self._store.wallet(chain_id, address)
        if wallet is None:
            raise StaleStateError("the wallet was never opened")
        return wallet

    def pause(self, wallet: Wallet, reason: Pause) -> Wallet:
        """Give out no more nonces of *wallet*, and say so."""
        self._store.pause(wallet, reason, self._clock())
        paused = self._wallet(wallet.chain_id, wallet.sender)
        self._tell(paused)
        return paused

    def _tell(self, wallet: Wallet) -> None:
        self._log.error(
            "wallet-paused",
            chain_id=wallet.chain_id,
            reason=wallet.paused_by,
            next_nonce=wallet.next_nonce,
        )

    def catch_up(self, wallet: Wallet, counted: int, chain: Chain) -> None:
        """
        Sight some of what has nonces below *counted* that the ledger does not know.

        Raises:
            StaleStateError: Somebody else changed the *wallet*.
        """
        sightings = list(self._unknown(wallet, counted, chain))
        for sighting in sightings:
            self._log.error(
                "transaction-sighted",
                chain_id=sighting.chain_id,
                nonce=sighting.nonce,
                tx_hash=sighting.tx_hash,
                foreign=sighting.mark is None,
            )
        if sightings:
            self._store.sight(wallet, sightings)

    def _unknown(
        self, wallet: Wallet, counted: int, chain: Chain
    ) -> Iterator[UnrecordedTransaction]:
        unheld = self._store.unheld(
            wallet.chain_id, wallet.sender, counted, _SIGHTINGS_AT_ONCE
        )
        for nonce in unheld:
            found = chain.client.find_transaction(wallet.sender, nonce)
            if found is None or not chain.is_final(found):
                return
            yield self._sighting(wallet.chain_id, found)

    def _sighting(
        self, chain_id: int, found: MinedTransaction
    ) -> UnrecordedTransaction:
        return UnrecordedTransaction(
            chain_id=chain_id,
            sender=found.sender,
            nonce=found.nonce,
            tx_hash=found.tx_hash,
            mark=mark_of(found.data),
            gas_limit=found.gas_limit,
            block_number=found.block.number,
            block_hash=found.block.hash,
            seen_at=self._clock(),
        )
