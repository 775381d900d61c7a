"""What running workers measure about networks: balances, runway and nodes."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

from api.extras.console.plots import share
from api.metrics import metric_names
from api.metrics.metric_names import Spec
from api.metrics.readings import read
from signer.config.networks import Network
from signer.model.worker_row import WorkerRow, find_running


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
        refunds = math.inf if self.refunds_left is None else self.refunds_left
        hours = math.inf if self.hours_left is None else self.hours_left
        few = refunds < network.low_balance_refunds
        return few or hours < network.low_balance_hours

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
