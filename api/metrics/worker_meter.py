"""What one worker measures, as the JSON that it writes into its row."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock

from api.metrics import metric_names
from api.metrics.process import ProcessFigures
from api.metrics.readings import Names, Readings
from signer.amounts import COIN_DECIMALS
from signer.keys.signing_alarm import ThrottleWindow
from signer.model.network_view import NetworkView
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction
from signer.ports.meter import Meter


_MOST_BYTES = 55_000  # A row takes little more.
_MOST_REPLACED = 10_000
_GWEI = 10**9

_OF_CALLS = frozenset({metric_names.RPC_REQUESTS, metric_names.RPC_SECONDS})
"""Left out for many networks with many nodes: all other metrics stay."""


class WorkerMeter(Meter):
    """Measures in memory; ``text`` has everything."""

    def __init__(
        self,
        names: Names,
        timer: Callable[[], float] = time.monotonic,
        figures: ProcessFigures | None = None,
    ) -> None:
        """
        Measure with labels that *names* bounds; *timer* is in seconds.

        *figures* are those of the process.
        """
        self._readings = Readings(names)
        self._timer = timer
        self._figures = figures
        self._lock = Lock()
        self._windows: dict[str, ThrottleWindow] = {}
        self._views: dict[str, NetworkView] = {}
        self._replaced: set[str] = set()  # Refunds that were signed again.

    def text(self) -> str:
        readings = self._readings.copy()
        with self._lock:
            windows, views = self._windows.copy(), self._views.copy()
        for backend, window in windows.items():
            share = metric_names.SIGNATURE_THROTTLED_SHARE
            readings.set(share, backend, value=window.share)
        for network, view in views.items():
            _show(readings, network, view)
        if self._figures is not None:
            self._figures.measure(readings)
        text = readings.to_json()
        return text if len(text) <= _MOST_BYTES else readings.to_json(_OF_CALLS)

    def signed(
        self,
        backend: str,
        outcome: str,
        seconds: float,
        *,
        attempts: int,
        throttled: int,
    ) -> None:
        readings = self._readings
        readings.observe(metric_names.SIGNATURE, backend, outcome, value=seconds)
        readings.add(metric_names.SIGNATURE_ATTEMPTS, backend, by=attempts)
        readings.add(metric_names.SIGNATURE_THROTTLED, backend, by=throttled)
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
        self._readings.observe(metric_names.RPC_SECONDS, network, node, value=seconds)
        for call, count in Counter(calls).items():
            spec = metric_names.RPC_REQUESTS
            self._readings.add(spec, network, node, *call, by=count)

    def moved(self, before: Refund, after: Refund) -> None:
        network, readings = after.network, self._readings
        seconds = max(0.0, (after.moving.updated_at - after.created_at).total_seconds())
        if after.status is Status.SIGNED and before.status is Status.BROADCAST:
            if len(self._replaced) < _MOST_REPLACED:
                self._replaced.add(after.id)
        elif after.status is Status.BROADCAST and before.status is not Status.MINED:
            if after.id not in self._replaced:
                readings.observe(metric_names.REFUND_BROADCAST, network, value=seconds)
        elif after.status.is_final:
            self._replaced.discard(after.id)
            code = after.failure_code or ""
            ended = network, after.tenant, after.status, code
            readings.add(metric_names.REFUNDS_ENDED, *ended)
            if after.status is Status.CONFIRMED:
                readings.observe(metric_names.REFUND_CONFIRMED, network, value=seconds)

    def delayed(self, moving: Refund | Transaction, code: str) -> None:
        self._readings.add(metric_names.REFUND_DELAYS, moving.network, code)

    def paid_fee(self, network: str, wei: int) -> None:
        coins = wei / 10**COIN_DECIMALS
        self._readings.add(metric_names.FEES_PAID, network, by=coins)

    def ended(self, network: str, *, signatures: int) -> None:
        spec = metric_names.REFUND_SIGNATURES
        self._readings.observe(spec, network, value=signatures)

    def ended_batch(self, network: str, size: int, unpaid: Sequence[str]) -> None:
        self._readings.observe(metric_names.BATCH_SIZE, network, value=size)
        for code in unpaid:
            self._readings.add(metric_names.BATCH_UNPAID, network, code)

    def looked(self, network: str, view: NetworkView | None) -> None:
        with self._lock:
            self._views.pop(network, None)
            if view is not None:
                self._views[network] = view

    def topped_up(self, network: str, asset: str, *, is_failing: bool | None) -> None:
        spec = metric_names.TOP_UP_FAILING
        if is_failing is None:
            self._readings.clear(spec)
        else:
            self._readings.set(spec, network, asset, value=is_failing)


def _show(readings: Readings, network: str, view: NetworkView) -> None:
    """Add what *view* shows; None is unknown."""
    for funds in view.funds:
        balance = funds.balance / 10**funds.decimals
        for spec, value in (
            (metric_names.WALLET_BALANCE, balance),
            (metric_names.WALLET_REFUNDS, funds.refunds_left),
            (metric_names.WALLET_HOURS, funds.hours_left),
        ):
            if value is not None:
                readings.set(spec, network, funds.asset, value=value)
    for spec, value in (
        (metric_names.MAX_FEE, None if view.max_fee is None else view.max_fee / _GWEI),
        (metric_names.CHAIN_NONCE, view.chain_nonce),
        (metric_names.MISSING_NONCES, view.missing_nonces),
        (metric_names.WALLET_DELEGATED, view.is_delegated),
        (metric_names.REVOKED_OPERATORS, view.revoked_operators),
        (metric_names.NETWORK_QUORUM, view.has_quorum),
        (metric_names.HEAD_AGE, view.head_age),
        (metric_names.NETWORK_LOOKED, None if view.at is None else view.at.timestamp()),
    ):
        if value is not None:
            readings.set(spec, network, value=value)
    has_problem = view.problem is not None
    readings.set(
        metric_names.NETWORK_PROBLEM, network, view.problem or "", value=has_problem
    )
    for node in view.nodes:
        readings.set(metric_names.NODE_UP, network, node.name, value=node.is_trusted)
        readings.set(
            metric_names.NODE_DISAGREES, network, node.name, value=node.disagrees
        )
        if node.lag is not None:
            readings.set(metric_names.NODE_LAG, network, node.name, value=node.lag)
