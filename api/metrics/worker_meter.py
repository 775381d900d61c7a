"""What one worker measures, as the text that it writes into its row."""

import time
from collections.abc import Callable, Sequence
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from api.metrics import catalogue
from api.metrics.catalogue import Spec
from api.metrics.names import Names
from signer.chain.chain import COIN_DECIMALS
from signer.keys.throttle_window import ThrottleWindow
from signer.model.network_view import NetworkView
from signer.model.refund import Refund, Status
from signer.ports.meter import Meter


_SIGNATURE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RPC_BUCKETS = (0.05, 0.25, 1, 2.5, 5)
_MOST_BYTES = 55_000  # A row takes little more.
_REFUND_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 14400)
_COUNT_BUCKETS = (1, 2, 3, 5, 10)
_MOST_REPLACED = 10_000
_GWEI = 10**9

disable_created_metrics()  # type: ignore[no-untyped-call]  # Half of the samples.


class WorkerMeter(Meter):
    """Counts in memory; ``text`` has everything in Prometheus's text format."""

    def __init__(
        self,
        names: Names,
        timer: Callable[[], float] = time.monotonic,
        figures: Collector | None = None,
    ) -> None:
        """
        Measure with labels that *names* bounds; *timer* is in seconds.

        *figures* are those of the process.
        """
        self._names = names
        self._timer = timer
        self._windows: dict[str, ThrottleWindow] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._lock = Lock()
        self._replaced: set[str] = set()  # Refunds that were signed again.
        self._views: dict[str, NetworkView] = {}
        self._of_views: list[Gauge] = []
        self._signatures = self._histogram(catalogue.SIGNATURE, _SIGNATURE_BUCKETS)
        self._attempts = self._counter(catalogue.SIGNATURE_ATTEMPTS)
        self._throttled = self._counter(catalogue.SIGNATURE_THROTTLED)
        self._share = self._gauge(catalogue.SIGNATURE_THROTTLED_SHARE)
        self._ended = self._counter(catalogue.REFUNDS_ENDED)
        self._broadcast = self._histogram(catalogue.REFUND_BROADCAST, _REFUND_BUCKETS)
        self._confirmed = self._histogram(catalogue.REFUND_CONFIRMED, _REFUND_BUCKETS)
        signed = catalogue.REFUND_SIGNATURES
        self._refund_signatures = self._histogram(signed, _COUNT_BUCKETS)
        self._delays = self._counter(catalogue.REFUND_DELAYS)
        self._fees = self._counter(catalogue.FEES_PAID)
        self._balance = self._seen(catalogue.WALLET_BALANCE)
        self._refunds_left = self._seen(catalogue.WALLET_REFUNDS)
        self._hours_left = self._seen(catalogue.WALLET_HOURS)
        self._chain_nonce = self._seen(catalogue.CHAIN_NONCE)
        self._missing_nonces = self._seen(catalogue.MISSING_NONCES)
        self._top_up_failing = self._gauge(catalogue.TOP_UP_FAILING)
        self._delegated = self._seen(catalogue.WALLET_DELEGATED)
        self._looked = self._seen(catalogue.NETWORK_LOOKED)
        self._problem = self._seen(catalogue.NETWORK_PROBLEM)
        self._max_fee = self._seen(catalogue.MAX_FEE)
        self._of_nodes = CollectorRegistry(auto_describe=False)
        self._calls = self._counter(catalogue.RPC_REQUESTS, self._of_nodes)
        self._exchanges = self._histogram(
            catalogue.RPC_SECONDS, _RPC_BUCKETS, self._of_nodes
        )
        if figures is not None:
            self._registry.register(figures)
        self._node_up = self._seen(catalogue.NODE_UP)
        self._node_disagrees = self._seen(catalogue.NODE_DISAGREES)
        self._node_lag = self._seen(catalogue.NODE_LAG)
        self._quorum = self._seen(catalogue.NETWORK_QUORUM)
        self._head_age = self._seen(catalogue.HEAD_AGE)

    def text(self) -> str:
        """Return all measurements."""
        with self._lock:
            for backend, window in self._windows.items():
                self._share.labels(backend).set(window.share)
            text = generate_latest(self._registry)
        # Many networks with many nodes: all other metrics stay.
        calls = generate_latest(self._of_nodes)
        return (text + calls if len(text + calls) <= _MOST_BYTES else text).decode()

    def signed(
        self,
        backend: str,
        outcome: str,
        seconds: float,
        *,
        attempts: int,
        throttled: int,
    ) -> None:
        self._signatures.labels(backend, self._names.code(outcome)).observe(seconds)
        self._attempts.labels(backend).inc(attempts)
        self._throttled.labels(backend).inc(throttled)
        with self._lock:
            window = self._windows.setdefault(backend, ThrottleWindow(self._timer))
        window.add(attempts, throttled)

    def called(
        self,
        network: str,
        node: str,
        calls: Sequence[tuple[str, str]],
        seconds: float,
    ) -> None:
        """Count *calls* of *node*, each a method and its outcome, in one exchange."""
        name = self._names.network(network)
        self._exchanges.labels(name, node).observe(seconds)
        for method, outcome in calls:
            self._calls.labels(name, node, method, self._names.code(outcome)).inc()

    def moved(self, before: Refund, after: Refund) -> None:
        network = self._names.network(after.network)
        seconds = max(0.0, (after.updated_at - after.created_at).total_seconds())
        if after.status is Status.SIGNED and before.status is Status.BROADCAST:
            if len(self._replaced) < _MOST_REPLACED:
                self._replaced.add(after.id)
        elif after.status is Status.BROADCAST and before.status is not Status.MINED:
            if after.id not in self._replaced:
                self._broadcast.labels(network).observe(seconds)
        elif after.status.is_final:
            self._replaced.discard(after.id)
            tenant = self._names.tenant(after.tenant)
            code = self._names.code(after.failure_code)
            self._ended.labels(network, tenant, after.status.value, code).inc()
            if after.status is Status.CONFIRMED:
                self._confirmed.labels(network).observe(seconds)

    def delayed(self, refund: Refund, code: str) -> None:
        network = self._names.network(refund.network)
        self._delays.labels(network, self._names.code(code)).inc()

    def paid_fee(self, network: str, wei: int) -> None:
        coins = wei / 10**COIN_DECIMALS
        self._fees.labels(self._names.network(network)).inc(coins)

    def ended(self, network: str, *, signatures: int) -> None:
        name = self._names.network(network)
        self._refund_signatures.labels(name).observe(signatures)

    def looked(self, network: str, view: NetworkView | None) -> None:
        with self._lock:  # A scrape sees all of a view, or none of it.
            self._views.pop(network, None)
            if view is not None:
                self._views[network] = view
            for gauge in self._of_views:
                gauge.clear()
            for name, each in self._views.items():
                self._show(name, each)

    def topped_up(self, network: str, asset: str, *, is_failing: bool | None) -> None:
        if is_failing is None:
            self._top_up_failing.clear()
        else:
            self._top_up_failing.labels(network, asset).set(is_failing)

    def _show(self, network: str, view: NetworkView) -> None:
        for funds in view.funds:
            labels = network, funds.asset
            self._balance.labels(*labels).set(funds.balance / 10**funds.decimals)
            if funds.refunds_left is not None:
                self._refunds_left.labels(*labels).set(funds.refunds_left)
            if funds.hours_left is not None:
                self._hours_left.labels(*labels).set(funds.hours_left)
        of_network = (
            (self._max_fee, None if view.max_fee is None else view.max_fee / _GWEI),
            (self._chain_nonce, view.chain_nonce),
            (self._missing_nonces, view.missing_nonces),
            (self._delegated, view.is_delegated),
            (self._quorum, view.has_quorum),
            (self._head_age, view.head_age),
            (self._looked, None if view.at is None else view.at.timestamp()),
        )
        for gauge, value in of_network:
            if value is not None:
                gauge.labels(network).set(value)
        problem = self._problem.labels(network, self._names.code(view.problem))
        problem.set(view.problem is not None)
        self._show_nodes(network, view)

    def _show_nodes(self, network: str, view: NetworkView) -> None:
        for node in view.nodes:
            self._node_up.labels(network, node.name).set(node.is_trusted)
            self._node_disagrees.labels(network, node.name).set(node.disagrees)
            if node.lag is not None:
                self._node_lag.labels(network, node.name).set(node.lag)

    def _counter(
        self, spec: Spec, registry: CollectorRegistry | None = None
    ) -> Counter:
        registry = registry or self._registry
        return Counter(spec.name, spec.meaning, spec.labels, registry=registry)

    def _gauge(self, spec: Spec) -> Gauge:
        return Gauge(spec.name, spec.meaning, spec.labels, registry=self._registry)

    def _seen(self, spec: Spec) -> Gauge:
        """Return a gauge of what views of the networks show."""
        self._of_views.append(gauge := self._gauge(spec))
        return gauge

    def _histogram(
        self,
        spec: Spec,
        buckets: tuple[float, ...],
        registry: CollectorRegistry | None = None,
    ) -> Histogram:
        return Histogram(
            spec.name,
            spec.meaning,
            spec.labels,
            buckets=buckets,
            registry=registry or self._registry,
        )
