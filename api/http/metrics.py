"""
Metrics for Prometheus: alerts, keys, stops and the audit.

Each scrape reads the ledger, so all processes report the same values, and a restart
loses none.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import ClassVar

from falcon import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from api.health.readiness import unsealed_seconds
from api.http import query
from api.http.middleware import Resource
from signer.alerts import Alert
from signer.audit.stored_checkpoints import Verify, find_newest
from signer.deadline import Deadlines
from signer.errors import StoreUnavailableError
from signer.model.key import KeyState, find_active_key
from signer.ports import Clock, Ledger, utc_now


_SCRAPE_SECONDS = 4.0
_SCRAPES_AT_ONCE = 4  # Prometheus servers often come in pairs; operators look as well.


class LedgerCollector:
    """
    A ``prometheus_client`` collector that reads *ledger* at each scrape.

    A stored checkpoint counts if *verify* returns what it states.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock = utc_now, verify: Verify | None = None
    ) -> None:
        self._ledger = ledger
        self._verify = verify
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples; StoreError if there is no answer."""
        yield self._alerts()
        yield from self._keys()
        yield GaugeMetricFamily(
            "hotwallet_stopped",
            "Stops of signing in force, of networks or of everything.",
            value=sum(stop.in_force for stop in self._ledger.stops()),
        )
        sealed, _ = self._ledger.head()
        yield GaugeMetricFamily(
            "hotwallet_audit_records",
            "Audit records that are sealed into the hash chain.",
            value=sealed,
        )
        yield GaugeMetricFamily(
            "hotwallet_audit_unsealed_seconds",
            "Age of the oldest audit record that is not sealed yet.",
            value=unsealed_seconds(self._ledger.oldest_unsealed(), self._clock),
        )
        yield from self._checkpoints()

    def _alerts(self) -> Metric:
        counts = self._ledger.alert_counts()
        family = CounterMetricFamily(
            "hotwallet_alerts", "Alerts that were raised.", labels=["alert"]
        )
        # Include alerts that were never raised: a rate needs an earlier sample.
        for name in sorted({*Alert, *counts}):
            family.add_metric([name], counts.get(name, 0))
        return family

    def _checkpoints(self) -> Iterable[Metric]:
        last = find_newest(self._ledger, self._verify).statement
        yield GaugeMetricFamily(
            "hotwallet_audit_checkpoint_records",
            "Audit records that the last checkpoint covers.",
            value=0 if last is None else last.size,
        )
        yield GaugeMetricFamily(
            "hotwallet_audit_checkpoint_age_seconds",
            "Age of the last checkpoint; absent if there is none.",
            value=None if last is None else (self._clock() - last.at).total_seconds(),
        )

    def _keys(self) -> Iterable[Metric]:
        keys = self._ledger.keys()
        by_state = Counter(key.state for key in keys)
        states = GaugeMetricFamily(
            "hotwallet_keys", "Keys of the ring, by their state.", labels=["state"]
        )
        for state in KeyState:
            states.add_metric([state], by_state[state])
        yield states
        active = find_active_key(keys)
        yield GaugeMetricFamily(
            "hotwallet_key_epoch",
            "Epoch of the active key; 0 where there is none.",
            value=0 if active is None else active.epoch or 0,
        )


class Metrics(Resource):
    """``/metrics`` in Prometheus's text format, for the role ``devops``."""

    required_role: ClassVar[str | frozenset[str] | None] = "devops"
    required_scope = "metrics:read"
    allows_direct = True  # Prometheus scrapes each process, not the proxy.

    def __init__(
        self, ledger: Ledger, clock: Clock = utc_now, verify: Verify | None = None
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(LedgerCollector(ledger, clock, verify))
        self._deadlines = Deadlines(_SCRAPES_AT_ONCE)

    def on_get(self, req: Request, resp: Response) -> None:
        """Report the metrics; StoreUnavailableError if the database is too slow."""
        query.parameters(req)
        resp.data = self._deadlines.within(
            _SCRAPE_SECONDS,
            lambda: generate_latest(self._registry),
            name="metrics",
            late=StoreUnavailableError,
        )

        resp.content_type = CONTENT_TYPE_PLAIN_0_0_4


class OpenMetrics(Metrics):
    """The public ``/metrics`` of ``METRICS_OPEN``; it holds no secrets."""

    required_role = None
