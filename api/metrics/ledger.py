"""Reads the facts of the ledger at each scrape, so a restart loses none."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta

from prometheus_client.core import HistogramMetricFamily, Metric

from api.health.readiness import unsealed_seconds
from api.metrics import catalogue
from api.metrics.catalogue import Spec
from api.metrics.names import Names
from api.metrics.shared_meter import (
    ANSWERED,
    DECIDED,
    REFUSED,
    SIGNED,
    read_counts,
    read_times,
)
from signer.alerts import Alert
from signer.audit.stored_checkpoints import Verify, find_newest
from signer.config.networks import Network
from signer.model.key import KeyState, find_active_key
from signer.model.refund import OPEN
from signer.open_approvals import read_open_approvals
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger


_RECENT = timedelta(minutes=5)


class LedgerCollector:
    """
    A ``prometheus_client`` collector that reads *ledger* at each scrape.

    A stored checkpoint counts if *verify* returns what it states.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        verify: Verify | None = None,
        *,
        networks: Mapping[str, Network],
        tenants: Collection[str] = (),
        rules: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """
        Report *networks*, *tenants* and the policy's *rules* of now, by name.

        *clock* is the ledger's.
        """
        self._ledger = ledger
        self._verify = verify
        self._clock = clock
        self._networks = networks
        self._names = Names(networks, tenants, rules)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples; StoreError if there is no answer."""
        yield self._alerts()
        yield from self._keys()
        in_force = sum(stop.in_force for stop in self._ledger.stops())
        yield _value(catalogue.STOPPED, in_force)
        yield from self._audit()
        yield from self._refunds()
        yield from self._wallets()
        yield self._approvals()
        yield self._webhooks()
        yield from self._shared()

    def _alerts(self) -> Metric:
        counts = self._ledger.alert_counts()
        # Include alerts that were never raised: a rate needs an earlier sample.
        names = sorted({*Alert, *counts})
        return _by_label(
            catalogue.ALERTS, {each: counts.get(each, 0) for each in names}
        )

    def _keys(self) -> Iterator[Metric]:
        keys = self._ledger.keys()
        by_state = Counter(key.state for key in keys)
        yield _by_label(catalogue.KEYS, {each: by_state[each] for each in KeyState})
        active = find_active_key(keys)
        yield _value(catalogue.KEY_EPOCH, 0 if active is None else active.epoch or 0)

    def _audit(self) -> Iterator[Metric]:
        sealed, _ = self._ledger.head()
        yield _value(catalogue.AUDIT_RECORDS, sealed)
        oldest = self._ledger.oldest_unsealed()
        yield _value(catalogue.AUDIT_UNSEALED, unsealed_seconds(oldest, self._clock))
        last = find_newest(self._ledger, self._verify).statement
        yield _value(catalogue.CHECKPOINT_RECORDS, 0 if last is None else last.size)
        age = catalogue.family(catalogue.CHECKPOINT_AGE)
        if last is not None:
            seconds = (self._clock() - last.at).total_seconds()
            age.add_sample(catalogue.CHECKPOINT_AGE.name, {}, seconds)
        yield age

    def _refunds(self) -> Iterator[Metric]:
        now = self._clock()
        counts: Counter[tuple[str, ...]] = Counter()
        oldest: dict[tuple[str, ...], float] = {
            (name, str(status)): 0.0
            for name in self._networks
            for status in sorted(OPEN)
        }
        for found in self._ledger.open_refunds():
            network, status = self._names.network(found.network), str(found.status)
            tenant = self._names.tenant(found.tenant)
            blocker = self._names.code(found.blocked_by)
            counts[network, tenant, status, blocker] += found.number
            seconds = (now - found.since).total_seconds()
            oldest[network, status] = max(oldest.get((network, status), 0.0), seconds)
        yield _by_labels(catalogue.REFUNDS_OPEN, counts)
        yield _by_labels(catalogue.REFUND_OLDEST, oldest)
        accepted: Counter[tuple[str, ...]] = Counter()
        recent = self._ledger.accepted_since(now - _RECENT)
        for (network, tenant), count in recent.items():
            labels = self._names.network(network), self._names.tenant(tenant)
            accepted[labels] += count
        yield _by_labels(catalogue.REFUNDS_ACCEPTED, accepted)

    def _wallets(self) -> Iterator[Metric]:
        names = {network.chain_id: name for name, network in self._networks.items()}
        active = self._ledger.active_key()
        paused = dict.fromkeys(self._networks, 0)
        nonces: dict[str, float] = {}
        for wallet in self._ledger.wallets():
            name = names.get(wallet.chain_id)
            if name is None:
                continue
            paused[name] += wallet.is_paused
            if active is not None and wallet.sender == active.address:
                nonces[name] = wallet.next_nonce
        yield _by_label(catalogue.WALLETS_PAUSED, paused)
        yield _by_label(catalogue.WALLET_NONCE, nonces)

    def _approvals(self) -> Metric:
        now = self._clock()
        waiting = Counter(
            each.action
            for each in read_open_approvals(self._ledger).approvals
            if not each.is_expired(now)
        )
        return _by_label(catalogue.APPROVALS, waiting)

    def _webhooks(self) -> Metric:
        counts: Counter[tuple[str, ...]] = Counter()
        for backlog in self._ledger.webhook_backlog():
            tenant = self._names.tenant(backlog.tenant)
            counts[tenant, "waiting"] += backlog.pending - backlog.failing
            counts[tenant, "failing"] += backlog.failing
            counts[tenant, "given-up"] += backlog.dead
        return _by_labels(catalogue.WEBHOOK_DELIVERIES, counts)

    def _shared(self) -> Iterator[Metric]:
        refusals: Counter[tuple[str, ...]] = Counter()
        decisions: Counter[tuple[str, ...]] = Counter()
        signatures: Counter[tuple[str, ...]] = Counter()
        names = self._names
        counts = self._ledger.shared_counts()
        for (code,), count in read_counts(counts, REFUSED).items():
            refusals[(names.code(code),)] += count
        for (path, verdict, rule), count in read_counts(counts, DECIDED).items():
            decisions[path, verdict, names.rule(rule)] += count
        yield _by_labels(catalogue.REFUSALS, refusals)
        for (backend, outcome), count in read_counts(counts, SIGNED).items():
            signatures[names.code(backend), names.code(outcome)] += count
        yield _by_labels(catalogue.DECISIONS, decisions)
        yield _by_labels(catalogue.SIGNATURES, signatures)
        yield _by_labels(catalogue.HTTP_REQUESTS, read_counts(counts, ANSWERED))
        times = HistogramMetricFamily(
            catalogue.HTTP_SECONDS.name,
            catalogue.HTTP_SECONDS.meaning,
            labels=["route"],
        )
        for route, (buckets, seconds) in read_times(counts).items():
            times.add_metric([route], buckets=buckets, sum_value=seconds)
        yield times


def _value(spec: Spec, value: float) -> Metric:
    return _by_labels(spec, {(): value})


def _by_label(spec: Spec, values: Mapping[str, float]) -> Metric:
    return _by_labels(spec, {(label,): value for label, value in values.items()})


def _by_labels(spec: Spec, values: Mapping[tuple[str, ...], float]) -> Metric:
    """Return the metric of *spec* with *values*, by the values of its labels."""
    found = catalogue.family(spec)
    for labels, value in values.items():
        pairs = zip(spec.labels, map(str, labels), strict=True)
        found.add_sample(spec.name, dict(pairs), value)
    return found
