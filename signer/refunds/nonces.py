"""
The nonces of one key: who has which, and what to do when a stranger has one.

While the chain knows nonces that the ledger does not, the wallet is *paused*:
nothing new gets a nonce, and what has one goes on.  The unknown transactions are
sighted one by one, once they are final.  Those that carry a refund's mark are our
own, forgotten by a backup; a wallet that misses nothing else resumes by itself.
Anything foreign waits for a person: ``hotwallet nonce repair``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from signer.errors import NotFoundError, StaleStateError, WalletPausedError
from signer.networks import Network
from signer.ports import ChainClient, Clock, MinedTransaction, Store
from signer.refunds.erc20 import mark_of
from signer.refunds.limits import Limits
from signer.refunds.refund import Refund, Status
from signer.refunds.wallet import Pause, Sighting, Wallet


HISTORY = 1000
"""How many nonces back a ledger looks that begins with a wallet in use."""

_SIGHTINGS_AT_ONCE = 20

_MOST_CONTESTED = 100


@dataclass(frozen=True, slots=True)
class Chain:
    """A configured network, and the way to it."""

    network: Network
    client: ChainClient

    def is_final(self, found: MinedTransaction) -> bool:
        """Say whether *found* is as deep as the network's configuration asks."""
        depth = self.client.latest_block().number - found.block.number + 1
        return depth >= self.network.confirmations


@dataclass(frozen=True, slots=True)
class Standing:
    """
    What the chain says of a wallet, beside what the ledger says.

    ``counted`` is the next nonce by the chain, pools included.  ``foreign`` are final
    transactions with this key that this service did not make, and that nobody accepted
    yet.
    """

    wallet: Wallet
    counted: int
    foreign: tuple[Sighting, ...]

    @property
    def unseen(self) -> int:
        """How many of the chain's nonces the ledger does not know yet."""
        return max(0, self.counted - self.wallet.next_nonce)


class Nonces:
    """Gives out the nonces of one key, and watches over those that are out."""

    def __init__(
        self, store: Store, *, address: str, key_id: str, clock: Clock
    ) -> None:
        self._store = store
        self._address = address
        self._key_id = key_id
        self._clock = clock
        self._log = structlog.get_logger("nonces")

    def agreed(self, chain: Chain) -> int:
        """
        Return the chain's next nonce, pools included, which the ledger knows of.

        Before this nothing may be said of a queued refund: a ledger that was restored
        may have forgotten that it is paid.

        Raises:
            WalletPausedError: The chain knows a nonce that the ledger does not.
        """
        counted = chain.client.pending_count(self._address)
        wallet = self._opened(chain, counted)
        if wallet.paused_by is None and counted > wallet.next_nonce:
            wallet = self._pause(wallet, Pause.CHAIN_AHEAD)
        if wallet.paused_by is not None:
            raise WalletPausedError(f"the wallet is paused: {wallet.paused_by}")
        return counted

    def reserve(
        self, refund: Refund, gas_limit: int, chain: Chain, counted: int
    ) -> Refund:
        """
        Give a queued refund its nonce for life; *counted* is what ``agreed`` returned.

        Raises:
            WalletPausedError: An operator has stopped the network.
            LimitReachedError: So much may not leave at once.
            StaleStateError: Somebody else moved the refund meanwhile.
        """
        if self._store.stopped(chain.network.chain_id) is not None:
            raise WalletPausedError("an operator has stopped the network")
        return self._store.reserve(
            refund,
            sender=self._address,
            key_id=self._key_id,
            gas_limit=gas_limit,
            counted=counted,
            at=self._clock(),
            limits=Limits.of(chain.network.tokens[refund.token]),
        )

    def adopt(self, refund: Refund) -> Refund | None:
        """
        Return what a queued *refund* became before the ledger forgot it.

        A final transaction with its mark has paid it: nobody who asks again is paid
        twice.  None when no such transaction was sighted.
        """
        sighting = self._store.sighting(refund.chain_id, self._address, refund.mark)
        if sighting is None:
            return None
        self._log.warning("refund-adopted", refund_id=refund.id, nonce=sighting.nonce)
        if sighting.held_by is not None:
            after = refund.moved(
                Status.REFUSED, self._clock(), **already_paid(sighting.tx_hash)
            )
            self._store.save(refund, after)
            return after
        after = refund.moved(
            Status.MINED,
            self._clock(),
            sender=self._address,
            key_id=self._key_id,
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
        sighting = self._store.sighting(refund.chain_id, self._address, refund.mark)
        if sighting is None or sighting.nonce == refund.nonce:
            return None
        return sighting.tx_hash

    def lost(self, refund: Refund, found: MinedTransaction) -> None:
        """Write down that *found*, final and not for *refund*, has its nonce."""
        sighting = self._sighting(refund.chain_id, found)
        wallet = self._wallet(refund.chain_id)
        self._store.sight(wallet, [sighting])
        if sighting.mark is None and wallet.paused_by is None:
            self._pause(self._wallet(refund.chain_id), Pause.FOREIGN_TRANSACTION)

    def watch(self, chain: Chain) -> Standing:
        """
        Compare chain and ledger; pause, sight and resume as need be.

        Returns:
            How things stand then.

        Raises:
            StaleStateError: Somebody else did so at the same time.
        """
        standing = self.standing(chain)
        wallet = standing.wallet
        if wallet.paused_by is None and not standing.unseen:
            return standing
        if wallet.paused_by is None:
            wallet = self._pause(wallet, Pause.CHAIN_AHEAD)
        self._catch_up(wallet, standing.counted, chain)
        standing = self.standing(chain)
        if standing.unseen or standing.foreign or self._contested(chain):
            return standing
        self.resume(standing, chain)
        return self.standing(chain)

    def standing(self, chain: Chain) -> Standing:
        """
        Compare chain and ledger, and change nothing.

        Raises:
            NotFoundError: The wallet never paid here.
        """
        chain_id = chain.network.chain_id
        # The chain first: what we spend after that, the ledger knows before the chain.
        counted = chain.client.pending_count(self._address)
        wallet = self._store.wallet(chain_id, self._address)
        if wallet is None:
            raise NotFoundError("the wallet has not paid on this network yet")
        foreign = tuple(self._store.foreign(chain_id, self._address))
        return Standing(wallet, counted, foreign)

    def resume(self, standing: Standing, chain: Chain) -> None:
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
        if contested := self._contested(chain):
            raise WalletPausedError(
                f"nonce {contested[0].nonce} of refund {contested[0].id} is used, and"
                " not by what the ledger knows: a worker will find out by what"
            )
        self._store.resume(standing.wallet, self._clock())
        self._log.warning(
            "wallet-resumed",
            chain_id=standing.wallet.chain_id,
            accepted=[sighting.tx_hash for sighting in standing.foreign],
        )

    def _contested(self, chain: Chain) -> Sequence[Refund]:
        """
        Return open refunds whose nonce the chain has used, and not by what we know.

        Perhaps by another refund's transaction that the ledger forgot, which must be
        sighted before anybody asks again for what it has paid.
        """
        counted = chain.client.transaction_count(self._address)
        chain_id = chain.network.chain_id
        below = self._store.open_below(
            chain_id, self._address, counted, _MOST_CONTESTED
        )
        unseen = [refund for refund in below if refund.status is not Status.MINED]
        hashes = {
            refund.id: {sent.tx_hash for sent in self._store.transactions(refund.id)}
            for refund in unseen
        }
        mined = chain.client.receipts(sorted(set().union(*hashes.values())))
        return [refund for refund in unseen if not hashes[refund.id] & mined.keys()]

    def _opened(self, chain: Chain, counted: int) -> Wallet:
        chain_id = chain.network.chain_id
        wallet = self._store.wallet(chain_id, self._address)
        if wallet is not None:
            return wallet
        # A ledger that is lost altogether looks like a new one.  What the wallet paid
        # must be sighted first, in case that somebody asks for it again.
        first = max(0, counted - HISTORY)
        reason = Pause.UNKNOWN_HISTORY if counted else None
        paused_at = self._clock() if reason else None
        self._store.open_wallet(
            Wallet(chain_id, self._address, first, first, reason, paused_at)
        )
        opened = self._wallet(chain_id)
        if opened.paused_by is not None:
            self._tell(opened)
        return opened

    def _wallet(self, chain_id: int) -> Wallet:
        wallet = self._store.wallet(chain_id, self._address)
        if wallet is None:
            raise StaleStateError("the wallet was never opened")
        return wallet

    def _pause(self, wallet: Wallet, reason: Pause) -> Wallet:
        self._store.pause(wallet, reason, self._clock())
        paused = self._wallet(wallet.chain_id)
        self._tell(paused)
        return paused

    def _tell(self, wallet: Wallet) -> None:
        self._log.error(
            "wallet-paused",
            chain_id=wallet.chain_id,
            reason=wallet.paused_by,
            next_nonce=wallet.next_nonce,
        )

    def _catch_up(self, wallet: Wallet, counted: int, chain: Chain) -> None:
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
    ) -> Iterator[Sighting]:
        first = wallet.next_nonce
        for nonce in range(first, min(counted, first + _SIGHTINGS_AT_ONCE)):
            found = chain.client.find_transaction(self._address, nonce)
            if found is None or not chain.is_final(found):
                return
            yield self._sighting(wallet.chain_id, found)

    def _sighting(self, chain_id: int, found: MinedTransaction) -> Sighting:
        return Sighting(
            chain_id=chain_id,
            sender=self._address,
            nonce=found.nonce,
            tx_hash=found.tx_hash,
            mark=mark_of(found.data),
            gas_limit=found.gas_limit,
            block_number=found.block.number,
            block_hash=found.block.hash,
            seen_at=self._clock(),
        )


def already_paid(tx_hash: str) -> dict[str, Any]:
    """Return why a refund is not paid by what the ledger has of it."""
    return {
        "failure_code": "already-paid",
        "failure_detail": f"transaction {tx_hash} has paid it already",
    }
