"""
Compares the wallets of rotated-away and revoked keys with the chain.

A ledger restored from a backup may have lost payments of any key that was ever active:
of a retired key, if the ring was rolled back to it, or of a key that was revoked since.
So each former wallet is compared before new refunds are paid.  That happens seldom: a
key that assigns no nonces agrees with the chain until a ledger is restored.
"""

from datetime import datetime, timedelta

from signer.chain.chain import Chain
from signer.errors import StaleStateError, WalletPausedError
from signer.model.key import Key, KeyState
from signer.model.wallet import Pause, Wallet
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.wallet_reconciliation import WalletReconciler


KNOWN_FOR = timedelta(minutes=10)
"""How long the wallet of a retired or revoked key counts as known."""


class FormerWallets:
    """
    Compares the wallets of former keys with the chain.

    An attacker may hold a *revoked* key (state ``blocked``) and go on sending with it.
    Those transactions pay no refund and must not stop other wallets.  So the wallet is
    known once the ledger has everything that the chain had at the first check.
    """

    def __init__(self, store: Ledger, wallets: WalletReconciler, clock: Clock) -> None:
        self._store = store
        self._wallets = wallets
        self._clock = clock
        self._known_since: dict[tuple[int, str, int], datetime] = {}
        self._first_counts: dict[tuple[int, str, datetime | None], int] = {}

    def require_known(
        self, chain: Chain, key: Key, *, if_restored: bool = False
    ) -> None:
        """
        Check that the ledger knows all that *key* has sent.

        A restored wallet may have sent what its ledger has forgotten, so it is known
        when it resumes.  With *if_restored*, it is also known once each nonce below its
        high-water mark belongs to a row.  That is enough for a refund that cannot have
        got another nonce there, and two restored wallets do not wait for each other.

        Raises:
            WalletPausedError: The ledger misses a transaction.  A worker records it, or
                an operator accepts it.
            RowNotAuthenticError: Another program changed the wallet.
        """
        if self._is_recently_known(chain, key):
            return
        is_revoked = key.state is KeyState.BLOCKED
        try:
            is_known = (
                self._resume_revoked(chain, key.address, if_restored=if_restored)
                if is_revoked
                else self._is_known(chain, key.address, if_restored=if_restored)
            )
            if is_known:
                if not if_restored:
                    self._remember_known(chain, key)
                return
        except StaleStateError:
            pass  # Another process reconciles the wallet now.
        raise WalletPausedError(
            f"the ledger does not know all that the former key of {key.address} has"
            " sent: run `hotwallet nonce repair` if it does not resume by itself"
        )

    def forget_paused(self) -> None:
        """Forget that paused wallets were known, however recently; for ``refresh``."""
        paused = self._store.paused_wallets()
        for wallet_id in [each for each in self._known_since if each[:2] in paused]:
            del self._known_since[wallet_id]

    def refresh(self, chain: Chain, key: Key) -> None:
        """Record what a retired or revoked *key* has sent and the ledger misses."""
        if self._is_recently_known(chain, key):
            return
        if key.state is not KeyState.BLOCKED:
            is_known = self._wallets.reconcile_former(chain, key.address)
        else:
            is_known = self._resume_revoked(chain, key.address)
            if not is_known:
                wallet, below = self._open_revoked(chain, key.address)
                self._wallets.record_unknown(wallet, below, chain)
        if is_known:
            self._remember_known(chain, key)

    def _is_known(self, chain: Chain, address: str, *, if_restored: bool) -> bool:
        chain_nonce = chain.client.pending_count(address)
        wallet = self._store.wallet(chain.network.chain_id, address)
        if chain_nonce == 0 and wallet is None:
            return True
        # A ledger from before the wallet's first payment does not have the wallet.
        wallet = wallet or self._wallets.get_or_open(chain, address, chain_nonce)
        if not wallet.is_authentic:
            raise wallet.error()
        if not wallet.is_paused:
            return chain_nonce <= wallet.next_nonce
        below = chain_nonce
        if wallet.paused_by is Pause.RESTORED:
            if not if_restored or wallet.high_water is None:
                return False
            below = max(below, wallet.high_water)
        return not self._store.unknown_nonces(wallet.chain_id, address, below, 1)

    def _resume_revoked(
        self, chain: Chain, address: str, *, if_restored: bool = False
    ) -> bool:
        """Resume a revoked key's wallet if it is known; return whether it is."""
        wallet = self._store.wallet(chain.network.chain_id, address)
        if wallet is not None and not wallet.is_paused:
            return True
        wallet, below = self._open_revoked(chain, address)
        if not wallet.is_paused:
            return True
        if wallet.paused_by is Pause.RESTORED and wallet.high_water is None:
            return False
        below = max(below, wallet.high_water or 0)
        if not self._wallets.is_known(chain, wallet, below):
            return False
        if not self._wallets.is_restored(wallet):
            # A forgotten transaction may still be mined instead of a filler.
            return if_restored
        foreign = self._store.foreign_transactions(wallet.chain_id, address)
        self._wallets.accept_and_resume(wallet, foreign)
        return True

    def _open_revoked(self, chain: Chain, address: str) -> tuple[Wallet, int]:
        """Return the wallet, and the nonce below which all must be known."""
        chain_nonce = chain.client.pending_count(address)
        wallet = self._wallets.get_or_open(chain, address, chain_nonce)
        pause = (wallet.chain_id, address, wallet.paused_at)
        first_count = self._first_counts.setdefault(pause, chain_nonce)
        # A restored ledger may have forgotten transactions that were not counted then.
        first_count = max(first_count, wallet.high_water or 0)
        return wallet, min(chain_nonce, first_count)

    def _is_recently_known(self, chain: Chain, key: Key) -> bool:
        since = self._known_since.get(_wallet_id(chain, key))
        return since is not None and self._clock() - since < KNOWN_FOR

    def _remember_known(self, chain: Chain, key: Key) -> None:
        if key.state in {KeyState.RETIRED, KeyState.BLOCKED}:
            self._known_since[_wallet_id(chain, key)] = self._clock()


def _wallet_id(chain: Chain, key: Key) -> tuple[int, str, int]:
    # Any change of the key changes its version, so that it is checked again.
    return chain.network.chain_id, key.address, key.version
