"""Let a paused wallet go on: look first, and change only what somebody accepted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from signer.chain.chain import Chain
from signer.errors import HotWalletError
from signer.model.wallet import UnrecordedTransaction
from signer.ports import Clock, Store
from signer.refunds.wallet_reconciliation import WalletReconciler, WalletStatus


@dataclass(frozen=True, slots=True)
class Repair:
    """
    How a wallet stands, and what was done about it.

    ``problem`` says why it could not go on, although it should, and ``code`` says so to
    machines.  ``accepted`` is what was foreign and blocks it no more.  An operator
    stopped the network at ``stopped_at``, which no repair ends.
    """

    network: str
    standing: WalletStatus
    resumed: bool = False
    problem: str | None = None
    code: str | None = None
    accepted: tuple[UnrecordedTransaction, ...] = ()
    stopped_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return self.standing.wallet.paused_by is not None or self.standing.unseen > 0


def repair(
    store: Store, chains: Mapping[str, Chain], clock: Clock, *, apply: bool
) -> Iterator[Repair]:
    """
    Yield how each wallet on *chains* stands; with *apply*, let those go on that can.

    Raises:
        HotWalletError: Ledger or chain do not answer.
    """
    by_id = {chain.network.chain_id: name for name, chain in chains.items()}
    for wallet in store.wallets():
        name = by_id.get(wallet.chain_id)
        if name is None:
            continue
        watch = WalletReconciler(store, clock)
        found = _repair(name, watch, chains[name], wallet.sender, apply=apply)
        yield replace(found, stopped_at=store.stopped(wallet.chain_id))


def _repair(
    name: str, watch: WalletReconciler, chain: Chain, address: str, *, apply: bool
) -> Repair:
    standing = watch.standing(chain, address)
    is_open = Repair(name, standing).is_open
    if not apply or not is_open:
        return Repair(name, standing)
    before = None
    while standing.unseen and standing.unseen != before:
        # Each look writes down a few; it ends where nothing more is final.
        before = standing.unseen
        standing = watch.watch(chain, address)
    try:
        if standing.wallet.paused_by is not None:
            watch.resume(standing, chain)
    except HotWalletError as e:
        return Repair(name, standing, problem=str(e), code=e.code)
    accepted = standing.foreign
    standing = watch.standing(chain, address)
    return Repair(name, standing, resumed=True, accepted=accepted)
