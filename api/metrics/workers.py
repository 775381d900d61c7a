"""Reads what running workers measured, from their rows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from api.health.readiness import NetworkLook
from api.metrics import metric_names
from api.metrics.metric_names import Spec
from api.metrics.readings import Labels, read
from signer.model.worker_row import WorkerRow, find_running


_LATEST = 2**33  # Seconds since 1970 that a date can have.


def _read(
    workers: Collection[WorkerRow], now: datetime, spec: Spec
) -> Iterator[tuple[Labels, float]]:
    """Yield the labels and values of *spec* that running workers measured."""
    for worker in find_running(workers, now):
        yield from read(worker.metrics).of(spec).items()


def read_throttled_shares(
    workers: Collection[WorkerRow], now: datetime
) -> Mapping[str, float]:
    shares: dict[str, float] = {}
    spec = metric_names.SIGNATURE_THROTTLED_SHARE
    for (backend,), value in _read(workers, now, spec):
        shares[backend] = max(shares.get(backend, 0.0), value)
    return shares


def read_head_ages(
    workers: Collection[WorkerRow], now: datetime
) -> Mapping[str, float]:
    samples = _read(workers, now, metric_names.HEAD_AGE)
    return {network: value for (network,), value in samples}


def read_failing_top_ups(
    workers: Collection[WorkerRow], now: datetime
) -> Sequence[str]:
    """Return what running workers cannot top up: each asset and its network."""
    samples = _read(workers, now, metric_names.TOP_UP_FAILING)
    return sorted({f"{asset} on {network}" for (network, asset), v in samples if v})


def read_network_looks(workers: Sequence[WorkerRow]) -> Mapping[str, NetworkLook]:
    looks: dict[str, NetworkLook] = {}
    for worker in workers:
        readings = read(worker.metrics)
        problems = readings.of(metric_names.NETWORK_PROBLEM).items()
        codes = {network: code for (network, code), value in problems if value}
        delegated = readings.of(metric_names.WALLET_DELEGATED)
        for (network,), at in readings.of(metric_names.NETWORK_LOOKED).items():
            if not 0 <= at < _LATEST:
                continue
            look = NetworkLook(
                datetime.fromtimestamp(at, UTC),
                codes.get(network),
                bool(delegated.get((network,))),
            )
            if network not in looks or looks[network].at < look.at:
                looks[network] = look
    return looks
