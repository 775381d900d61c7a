"""
Reports the rows of the workers: their last passes, and what they measure.

A row is text that another process wrote.  Only what the catalogue has is reported, and
only a bounded number of samples, so that a changed row cannot flood a monitoring.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.health.readiness import NetworkLook
from api.metrics import catalogue
from api.metrics.catalogue import Spec
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.clock import Clock
from signer.ports.shared_state import SharedState


_LATEST = 2**33  # Seconds since 1970 that a date can have.
_MOST_SAMPLES = 2000  # Of one worker.
_LABEL = re.compile(r"[A-Za-z0-9 ._+-]{0,64}")

_SPECS: Mapping[str, Spec] = {
    name: spec for spec in catalogue.OF_WORKERS for name in spec.sample_names
}

Sample = tuple[str, Mapping[str, str], float]


class WorkersCollector:
    """A ``prometheus_client`` collector that reads the workers' rows at each scrape."""

    def __init__(self, store: SharedState, clock: Clock) -> None:
        """Report the workers of *store*, whose clock *clock* is."""
        self._store = store
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples; StoreError if there is no answer."""
        workers, now = self._store.workers(), self._clock()
        running, stopped = find_running(workers, now), find_stopped(workers, now)
        states = catalogue.family(catalogue.WORKERS)
        ages = catalogue.family(catalogue.WORKER_AGE)
        counts = {"running": len(running), "stopped": len(stopped)}
        for state, count in counts.items():
            states.add_sample(catalogue.WORKERS.name, {"state": state}, count)
        for worker in (*running, *stopped):
            age = max(0.0, (now - worker.passed_at).total_seconds())
            ages.add_sample(catalogue.WORKER_AGE.name, {"worker": worker.name}, age)
        yield states
        yield ages
        yield from _measurements(running)


def _measurements(workers: Sequence[WorkerRow]) -> Iterable[Metric]:
    families = {spec: catalogue.family(spec, "worker") for spec in catalogue.OF_WORKERS}
    for worker in workers:
        for name, labels, value in read_samples(worker.metrics):
            families[_SPECS[name]].add_sample(
                name, {**labels, "worker": worker.name}, value
            )
    return families.values()


def read_samples(text: str) -> Sequence[Sample]:
    """Return the samples of *text* that the catalogue has; none if it is malformed."""
    found: list[Sample] = []
    try:
        for each in text_string_to_metric_families(text):
            for name, labels, value, *_ in each.samples:
                if _is_ours(name, labels) and math.isfinite(value):
                    found.append((name, labels, value))
                if len(found) > _MOST_SAMPLES:
                    return ()
    except (ValueError, KeyError, IndexError):  # The parser's, for malformed text.
        return ()
    return found


def _read(
    workers: Collection[WorkerRow], now: datetime, spec: Spec
) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield the labels and values that running workers measured."""
    for worker in find_running(workers, now):
        for name, labels, value in read_samples(worker.metrics):
            if name == spec.name:
                yield labels, value


def read_throttled_shares(
    workers: Collection[WorkerRow], now: datetime
) -> Mapping[str, float]:
    """Return the largest share that a running worker measured, by backend."""
    shares: dict[str, float] = {}
    spec = catalogue.SIGNATURE_THROTTLED_SHARE
    for labels, value in _read(workers, now, spec):
        backend = labels["backend"]
        shares[backend] = max(shares.get(backend, 0.0), value)
    return shares


def read_head_ages(
    workers: Collection[WorkerRow], now: datetime
) -> Mapping[str, float]:
    """Return for how long the newest block of each network has not changed."""
    samples = _read(workers, now, catalogue.HEAD_AGE)
    return {labels["network"]: value for labels, value in samples}


def read_failing_top_ups(
    workers: Collection[WorkerRow], now: datetime
) -> Sequence[str]:
    """Return what running workers cannot top up: each asset and its network."""
    samples = _read(workers, now, catalogue.TOP_UP_FAILING)
    failing = (labels for labels, value in samples if value)
    return sorted({f"{each['asset']} on {each['network']}" for each in failing})


def read_network_looks(workers: Sequence[WorkerRow]) -> Mapping[str, NetworkLook]:
    """Return the newest look of *workers* at each network, by its name."""
    looks: dict[str, NetworkLook] = {}
    for worker in workers:
        samples: dict[str, dict[str, float]] = {}
        codes: dict[str, str] = {}
        for name, labels, value in read_samples(worker.metrics):
            network = labels.get("network", "")
            samples.setdefault(network, {})[name] = value
            if name == catalogue.NETWORK_PROBLEM.name and value:
                codes[network] = labels["code"]
        for network, values in samples.items():
            at = values.get(catalogue.NETWORK_LOOKED.name)
            if at is None or not 0 <= at < _LATEST:
                continue
            look = NetworkLook(
                datetime.fromtimestamp(at, UTC),
                codes.get(network),
                bool(values.get(catalogue.WALLET_DELEGATED.name)),
            )
            if network not in looks or looks[network].at < look.at:
                looks[network] = look
    return looks


def _is_ours(name: str, labels: Mapping[str, str]) -> bool:
    spec = _SPECS.get(name)
    if spec is None or not all(_LABEL.fullmatch(each) for each in labels.values()):
        return False
    expected = {*spec.labels}
    if name.endswith("_bucket"):
        expected.add("le")
    return set(labels) == expected
