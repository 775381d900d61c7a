"""The wallets, with their nonces: which are open, and which are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from api.container import Container
from api.extras.console.measurements import Measurements
from signer.model.key import Key, KeyState
from signer.model.wallet import UnrecordedTransaction, Wallet
from signer.ports.ledger import Ledger
from signer.refunds.wallet_nonces import read_nonces


@dataclass(frozen=True, slots=True)
class ShownWallet:
    """
    A wallet, and what the ledger knows about its nonces.

    ``network`` is None if the networks file no longer has its chain, and ``key`` if the
    ring does not have its key.  ``open`` is how many nonces below the next one are not
    final, at most ``MOST_OPEN``, and all below ``final_below`` are.  ``chain_nonce`` is
    the next one on the chain, None if no worker measured it.  ``gaps`` are the first
    nonces that no refund has, and for which later ones wait.
    """

    row: Wallet
    network: str | None
    key: KeyState | None
    open: int
    final_below: int
    chain_nonce: int | None
    gaps: Sequence[int]
    foreign: Sequence[UnrecordedTransaction]
    is_delegated: bool

    @property
    def is_active(self) -> bool:
        """Whether new refunds are paid from it."""
        return self.key is KeyState.ACTIVE


def read_wallets(
    container: Container, ring: Sequence[Key], measured: Measurements
) -> Sequence[ShownWallet]:
    """Return all wallets of *ring*, with what a worker *measured*; asks no node."""
    store = container.store
    names = {each.chain_id: name for name, each in container.networks.items()}
    states = {key.address: key.state for key in ring}
    return [
        _show(store, each, names.get(each.chain_id), states.get(each.sender), measured)
        for each in store.wallets()
    ]


def _show(
    store: Ledger,
    wallet: Wallet,
    network: str | None,
    key: KeyState | None,
    measured: Measurements,
) -> ShownWallet:
    # Only the active key's nonce and code are measured.
    is_measured = key is KeyState.ACTIVE and network is not None
    counted = measured.chain_nonces.get(str(network)) if is_measured else None
    chain_nonce = int(counted) if counted is not None and isfinite(counted) else None
    nonces = read_nonces(store, wallet, chain_nonce)
    return ShownWallet(
        wallet,
        network,
        key,
        len(nonces.open),
        min(nonces.open, default=wallet.next_nonce),
        chain_nonce,
        nonces.gaps,
        store.foreign_transactions(wallet.chain_id, wallet.sender),
        is_measured and network in measured.delegated,
    )
