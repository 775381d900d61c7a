"""Let a paused wallet go on: look first, and change only what somebody accepted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from signer.errors import HotWalletError
from signer.ports import Clock, Store
from signer.refunds.nonces import Chain, Nonces, Standing


@dataclass(frozen=True, slots=True)
class Repair:
    """
    How a wallet stands, and what was done about it.

    ``problem`` says why it could not go on, although it should.
    """

    network: str
    standing: Standing
    resumed: bool = False
    problem: str | None = None

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
        nonces = Nonces(store, address=wallet.sender, key_id="", clock=clock)
        yield _repair(name, nonces, chains[name], apply=apply)


def _repair(name: str, nonces: Nonces, chain: Chain, *, apply: bool) -> Repair:
    standing = nonces.standing(chain)
    is_open = Repair(name, standing).is_open
    if not apply or not is_open:
        return Repair(name, standing)
    before = None
    while standing.unseen and standing.unseen != before:
        # Each look writes down a few; it ends where nothing more is final.
        before = standing.unseen
        standing = nonces.watch(chain)
    try:
        if standing.wallet.paused_by is not None:
            nonces.resume(standing, chain)
    except HotWalletError as e:
        return Repair(name, standing, problem=str(e))
    return Repair(name, nonces.standing(chain), resumed=True)
