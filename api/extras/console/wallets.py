"""The wallets and keys of each network, with what running workers measure."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from math import isfinite

from api.container import Container
from api.extras.console.trends import share
from api.metrics import metric_names
from api.metrics.metric_names import Spec
from api.metrics.readings import read
from signer.chain.vault import change_operator
from signer.config.networks import Network
from signer.model.key import Key, KeyState, find_active_key
from signer.model.network_view import is_low
from signer.model.wallet import UnrecordedTransaction, Wallet
from signer.model.worker_row import WorkerRow, find_running
from signer.ports.ledger import Ledger
from signer.refunds.wallet_reconciliation import read_nonces


@dataclass(slots=True)
class MeasuredBalance:
    """
    A balance of the active key's address, in whole units, and how long it lasts.

    None is unknown.
    """

    network: str
    name: str
    balance: float | None = None
    refunds_left: float | None = None
    hours_left: float | None = None
    is_top_up_failing: bool = False

    def is_low(self, network: Network) -> bool:
        """Return whether it is below one of the bounds of *network*."""
        return is_low(self.refunds_left, self.hours_left, network)

    def state(self, network: Network) -> str:
        """Return one word for it: what is enough is unknown before the first refund."""
        if self.balance == 0:
            return "empty"
        if self.is_low(network):
            return "low"
        return "unknown" if self.refunds_left is None else "enough"

    def runway(self, network: Network) -> float:
        """
        Return how far it is from the bounds of *network*, in percent.

        100 is five times the bound, or more, and 20 is the bound.
        """
        pairs = (
            (self.refunds_left, network.low_balance_refunds),
            (self.hours_left, network.low_balance_hours),
        )
        parts = [
            share(left, 5 * low) for left, low in pairs if left is not None and low
        ]
        return min(parts, default=100.0 if self.balance else 0.0)


@dataclass(slots=True)
class MeasuredNode:
    """A node of a network, and how many blocks it lags the highest head."""

    network: str
    name: str
    is_up: bool | None = None
    lag: float | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    """What one worker measured lately; nothing if none runs."""

    assets: Sequence[MeasuredBalance] = ()
    nodes: Sequence[MeasuredNode] = ()
    chain_nonces: Mapping[str, float] = field(default_factory=dict)
    delegated: Sequence[str] = ()
    """Networks on which the active key's address has code."""
    without_quorum: Sequence[str] = ()
    """Networks of which too few nodes answer and agree."""
    head_ages: Mapping[str, float] = field(default_factory=dict)
    revoked_operators: Mapping[str, float] = field(default_factory=dict)
    """How many revoked keys the vault of a network lets pay."""


def read_measurements(workers: Collection[WorkerRow], now: datetime) -> Measurements:
    """
    Return what the running workers measured; asks no node.

    One worker looks at the networks.  After another took over, its row is the newer.
    """
    running = sorted(find_running(workers, now), key=lambda each: each.passed_at)
    samples = chain.from_iterable(read(each.metrics) for each in running)
    assets: dict[tuple[str, str], MeasuredBalance] = {}
    nodes: dict[tuple[str, str], MeasuredNode] = {}
    of_networks: dict[Spec, dict[str, float]] = defaultdict(dict)
    for spec, labels, value in samples:
        network = labels.get("network", "")
        if "asset" in labels:
            asset = network, labels["asset"]
            _add(assets.setdefault(asset, MeasuredBalance(*asset)), spec, value)
        elif spec is metric_names.NODE_UP:
            node = network, labels["node"]
            nodes.setdefault(node, MeasuredNode(*node)).is_up = bool(value)
        elif spec is metric_names.NODE_LAG:
            node = network, labels["node"]
            nodes.setdefault(node, MeasuredNode(*node)).lag = value
        else:
            of_networks[spec][network] = value
    delegated = of_networks[metric_names.WALLET_DELEGATED]
    quorums = of_networks[metric_names.NETWORK_QUORUM]
    return Measurements(
        [assets[each] for each in sorted(assets)],
        [nodes[each] for each in sorted(nodes)],
        of_networks[metric_names.CHAIN_NONCE],
        sorted(network for network, value in delegated.items() if value),
        sorted(network for network, value in quorums.items() if not value),
        of_networks[metric_names.HEAD_AGE],
        of_networks[metric_names.REVOKED_OPERATORS],
    )


def _add(asset: MeasuredBalance, spec: Spec, value: float) -> None:
    if spec is metric_names.WALLET_BALANCE:
        asset.balance = value
    elif spec is metric_names.WALLET_REFUNDS:
        asset.refunds_left = value
    elif spec is metric_names.WALLET_HOURS:
        asset.hours_left = value
    elif spec is metric_names.TOP_UP_FAILING:
        asset.is_top_up_failing = bool(value)


def find_open_vaults(
    container: Container, keys: Sequence[Key], measured: Measurements
) -> Mapping[str, Sequence[str]]:
    """
    Return the commands that remove revoked *keys* from vaults, by network.

    Without a network of which a worker *measured* that they cannot pay.
    """
    revoked = [key.address for key in keys if key.state is KeyState.BLOCKED]
    return {
        name: [change_operator("remove", name, address) for address in revoked]
        for name, network in container.networks.items()
        if revoked
        and network.vault is not None
        and measured.revoked_operators.get(name) != 0
    }


def read_key_ring(container: Container, keys: Sequence[Key]) -> Mapping[str, object]:
    """
    Return the active key, None if there is none, and all that were, the newest first.

    Each with the ids of open refunds that it has signed, and with whether it was
    revoked less than a day ago.  StoreError if the ledger does not answer.
    """
    now = container.ledger_clock()
    served = [
        {
            "key": key,
            "refunds": container.revocation.stranded(key.address),
            "may_be_reinstated": key.reinstatable_until is not None
            and now < key.reinstatable_until,
        }
        for key in keys
        if key.epoch is not None
    ]
    return {"active": find_active_key(keys), "served": served}


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
