"""
What the wallets of former keys have sent, before anything new is paid.

A ledger from a backup may have forgotten payments of any key that ever served: of one
that the ring has retired, since somebody rolled back to it, or of one that was given up
since.  So each of their wallets is compared with its chain, too, but seldom: a key that
gives out no nonces agrees with its chain for as long as nobody restores a ledger.
"""

from datetime import datetime, timedelta

from signer.chain.chain import Chain
from signer.errors import StaleStateError, WalletPausedError
from signer.model.key import Key, KeyState
from signer.model.wallet import Wallet
from signer.ports import Clock, Store
from signer.refunds.wallet_reconciliation import WalletReconciler


LOOK_AGAIN = timedelta(minutes=10)
"""For how long a retired or given-up key's wallet is believed to be known."""

_Place = tuple[int, str, int]


class FormerWallets:
    """
    Looks at the wallets of former keys.

    A key that was *given up* (blocked) may be somebody else's now, who goes on sending.
    What he sends is nobody's payment, and stops nobody's: the wallet is known once all
    that its chain had at the first look behind that is sighted, by whomever it is.
    """

    def __init__(self, store: Store, wallets: WalletReconciler, clock: Clock) -> None:
        self._store = store
        self._wallets = wallets
        self._clock = clock
        self._agreed: dict[_Place, datetime] = {}
        self._first_looks: dict[tuple[int, str, datetime | None], int] = {}

    def require_known(self, chain: Chain, key: Key) -> None:
        """
        Return if the ledger knows all that *key* has sent.

        Raises:
            WalletPausedError: It does not; a worker finds out, or a person.
        """
        if self._is_fresh(chain, key):
            return
        blocked = key.state is KeyState.BLOCKED
        known = self._is_concluded if blocked else self._is_known
        try:
            if known(chain, key.address):
                self._agree(chain, key)
                return
        except StaleStateError:
            pass  # Somebody else looks at this moment.
        raise WalletPausedError("a former key's wallet has sent what is not known")

    def look(self, chain: Chain, key: Key) -> None:
        """
        Sight what the chain knows of a retired or given-up *key*, and the ledger not.

        Raises:
            StaleStateError: Somebody else did so at the same time.
        """
        # Whoever has paused the wallet meanwhile waits for this look, and so do others.
        if self._is_fresh(chain, key) and not self._is_paused(chain, key.address):
            return
        if key.state is not KeyState.BLOCKED:
            known = self._wallets.is_settled(chain, key.address)
        else:
            known = self._is_concluded(chain, key.address)
            if not known:
                wallet, below = self._first_look(chain, key.address)
                self._wallets.catch_up(wallet, below, chain)
        if known:
            self._agree(chain, key)

    def _is_known(self, chain: Chain, address: str) -> bool:
        counted = chain.client.pending_count(address)
        if counted == 0:
            return True
        # A ledger from before its first payment here knows nothing of the wallet.
        wallet = self._wallets.opened(chain, address, counted)
        if wallet.paused_by is None:
            return counted <= wallet.next_nonce
        return not self._store.unheld(wallet.chain_id, address, counted, 1)

    def _is_paused(self, chain: Chain, address: str) -> bool:
        wallet = self._store.wallet(chain.network.chain_id, address)
        return wallet is not None and wallet.paused_by is not None

    def _is_concluded(self, chain: Chain, address: str) -> bool:
        wallet = self._store.wallet(chain.network.chain_id, address)
        if wallet is not None and wallet.paused_by is None:
            return True
        wallet, below = self._first_look(chain, address)
        return wallet.paused_by is None or self._wallets.conclude(chain, wallet, below)

    def _first_look(self, chain: Chain, address: str) -> tuple[Wallet, int]:
        """Return the wallet, and below which nonce all must be known."""
        counted = chain.client.pending_count(address)
        wallet = self._wallets.opened(chain, address, counted)
        look = (wallet.chain_id, address, wallet.paused_at)
        return wallet, min(counted, self._first_looks.setdefault(look, counted))

    def _is_fresh(self, chain: Chain, key: Key) -> bool:
        agreed = self._agreed.get(_place(chain, key))
        return agreed is not None and self._clock() - agreed < LOOK_AGAIN

    def _agree(self, chain: Chain, key: Key) -> None:
        if key.state in {KeyState.RETIRED, KeyState.BLOCKED}:
            self._agreed[_place(chain, key)] = self._clock()


def _place(chain: Chain, key: Key) -> _Place:
    # Whatever happens to the key afterwards, its version is another one.
    return chain.network.chain_id, key.address, key.version
