"""What an operator should look at first: the overview lists it before anything else."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from api.extras.console.rendering import format_duration
from api.extras.console.wallets import Measurements
from api.health.readiness import Readiness, unsealed_seconds
from api.metrics.workers import read_throttled_shares
from api.views.administration import describe_stop
from signer.alerts import Alert
from signer.approvals import OpenApprovals
from signer.audit.sealer import LATE
from signer.config.networks import Network
from signer.keys.signing_alarm import THROTTLED_SHARE
from signer.model.key import find_active_key
from signer.model.network_view import LAGGING_BLOCKS
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.ledger import Ledger
from signer.refunds.wallet_monitor import LATE_SECONDS, find_oldest, waited_seconds


_RECENT = timedelta(days=1)


class Urgency(StrEnum):
    """How soon an operator should act; also the class of its style."""

    NOW = "bad"
    SOON = "warn"
    KNOWN = "info"


@dataclass(frozen=True, slots=True)
class Notice:
    """
    One sentence about a problem.

    *code* has a page under ``/problems``, and *page* of the console shows more.
    """

    urgency: Urgency
    text: str
    code: str | None = None
    page: str | None = None

    @property
    def href(self) -> str | None:
        """The path of the page."""
        return None if self.page is None else f"/console/{self.page}"


@dataclass(frozen=True, slots=True)
class OverviewFacts:
    """What the overview has read."""

    now: datetime
    readiness: Readiness
    workers: Sequence[WorkerRow]
    measurements: Measurements
    approvals: OpenApprovals
    networks: Mapping[str, Network]


_now = partial(Notice, Urgency.NOW)
_soon = partial(Notice, Urgency.SOON)


def find_notices(ledger: Ledger, facts: OverviewFacts) -> Sequence[Notice]:
    """Return what needs attention, the most urgent first; raises ``StoreError``."""
    found = [
        *_stops_and_checks(ledger, facts),
        *_workers(facts),
        *_keys_and_wallets(ledger, facts),
        *_balances(facts),
        *_chains(facts),
        *_device(facts),
        *_refunds(ledger, facts),
        *_approvals(facts),
        *_audit_and_webhooks(ledger, facts),
    ]
    shown = {notice.code for notice in found}
    found += [each for each in _alerts(ledger, facts) if each.code not in shown]
    order = list(Urgency)
    return sorted(found, key=lambda notice: order.index(notice.urgency))


_OTHERWISE_SHOWN = frozenset({"signing-stopped", "worker-stopped"})


def _stops_and_checks(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    names = {network.chain_id: name for name, network in facts.networks.items()}
    for stop in ledger.stops():
        if stop.in_force:
            yield _now(describe_stop(stop, names), "signing-stopped", "stops")
    for name, result in facts.readiness.checks.items():
        if result not in {"ok", *_OTHERWISE_SHOWN}:
            yield _now(f"The check of {name} reports {result}", result)


def _workers(facts: OverviewFacts) -> Iterator[Notice]:
    if not find_running(facts.workers, facts.now):
        yield _now("No worker runs: refunds are accepted, and wait", "worker-stopped")
    for worker in find_stopped(facts.workers, facts.now):
        age = format_duration(facts.now - worker.passed_at)
        text = f"Worker {worker.name} has completed no pass for {age}"
        yield _now(text, "worker-stopped")


def _keys_and_wallets(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    if find_active_key(ledger.keys()) is None:
        yield _now("No key is active: nothing can be signed", page="keys")
    names = {network.chain_id: name for name, network in facts.networks.items()}
    for wallet in ledger.wallets():
        if wallet.is_paused:
            name = names.get(wallet.chain_id, f"chain {wallet.chain_id}")
            yield _now(
                f"The wallet {wallet.sender} of {name} is paused"
                f" ({wallet.pause_reason}): it assigns no nonces",
                "wallet-paused",
                "wallets",
            )
    for name in facts.measurements.delegated:
        yield _now(
            f"The wallet's address on {name} has code of others, which can move its"
            " funds",
            Alert.WALLET_DELEGATED,
            "wallets",
        )


def _balances(facts: OverviewFacts) -> Iterator[Notice]:
    for asset in facts.measurements.assets:
        network, name = facts.networks.get(asset.network), asset.name
        if network is not None and asset.is_low(network):
            left = _left(asset.refunds_left, asset.hours_left)
            text = f"The balance of {name} on {asset.network} is low{left}"
            yield _soon(text, Alert.LOW_BALANCE, "wallets")
    for asset in facts.measurements.assets:
        if asset.is_top_up_failing:
            text = f"The treasury does not top up {asset.name} on {asset.network}"
            yield _soon(text, Alert.TOP_UP_FAILING, "wallets")


def _left(refunds: float | None, hours: float | None) -> str:
    parts = []
    if refunds is not None:
        parts.append(f"about {refunds:.0f} refunds")
    if hours is not None:
        parts.append(f"{hours:.0f} hours")
    return f": {' or '.join(parts)} are left" if parts else ""


def _chains(facts: OverviewFacts) -> Iterator[Notice]:
    for network in facts.measurements.without_quorum:
        text = f"Too few nodes of {network} answer and agree: nothing is sent there"
        yield _now(text, Alert.QUORUM_LOST, "wallets")
    for network, age in facts.measurements.head_ages.items():
        known = facts.networks.get(network)
        if known is not None and 0 < known.stalled_after_seconds < age:
            text = f"{network} has had no new block for {format_duration(age)}"
            yield _now(text, Alert.CHAIN_STALLED, "wallets")
    for node in facts.measurements.nodes:
        name = f"{node.name} of {node.network}"
        if node.is_up is False:
            text = f"{name} does not answer, or contradicts the others"
            yield _soon(text, Alert.NODE_DOWN, "wallets")
        if node.lag is not None and node.lag > LAGGING_BLOCKS:
            text = f"{name} lags the others by {node.lag:.0f} blocks"
            yield _soon(text, Alert.NODE_LAGGING, "wallets")


def _device(facts: OverviewFacts) -> Iterator[Notice]:
    shares = read_throttled_shares(facts.workers, facts.now)
    for backend, share in sorted(shares.items()):
        if share > THROTTLED_SHARE:
            yield _soon(
                f"{backend} rejects {100 * share:.0f} % of the workers' calls because"
                " of their rate",
                Alert.BACKEND_THROTTLED,
            )


def _refunds(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    groups = ledger.open_refunds()
    for network, oldest in find_oldest(groups).items():
        seconds = waited_seconds(oldest, facts.now)
        if seconds > LATE_SECONDS:
            age = format_duration(seconds)
            text = f"A refund on {network} has been {oldest.status} for {age}"
            yield _now(text, Alert.REFUNDS_LATE, "refunds")
    blocked = Counter[str]()
    for group in groups:
        if group.blocked_by is not None:
            blocked[group.blocked_by] += group.number
    for code, number in blocked.most_common():
        refunds = "1 refund is" if number == 1 else f"{number} refunds are"
        yield _soon(f"{refunds} delayed by {code}", code, "refunds")


def _approvals(facts: OverviewFacts) -> Iterator[Notice]:
    waiting = sum(
        not each.is_expired(facts.now) and each.decided_by is None
        for each in facts.approvals.approvals
    )
    if waiting:
        changes = "1 change waits" if waiting == 1 else f"{waiting} changes wait"
        yield _soon(f"{changes} for a decision", None, "approvals")
    if number := facts.approvals.changed:
        text = f"Another program changed or inserted {number} proposals"
        yield _now(text, Alert.ROW_CHANGED, "approvals")


def _audit_and_webhooks(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    seconds = unsealed_seconds(ledger.oldest_unsealed(), lambda: facts.now)
    if seconds > LATE.total_seconds():
        age = format_duration(seconds)
        text = f"An audit record has waited for its seal for {age}"
        yield _soon(text, Alert.SEALING_LATE, "audit")
    for backlog in ledger.webhook_backlog():
        if backlog.dead or backlog.failing:
            yield _soon(
                f"The webhook of {backlog.tenant} fails. Events that are sent again:"
                f" {backlog.failing}; given up: {backlog.dead}",
                Alert.WEBHOOK_FAILING,
                "webhooks",
            )


def _alerts(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    for name, count in sorted(ledger.alert_counts().items()):
        last = ledger.last_alert_at(name)
        if last is not None and facts.now - last <= _RECENT:
            age = format_duration(facts.now - last)
            text = f"Alert {name}: last {age} ago, {count} in all"
            yield Notice(Urgency.KNOWN, text, name)
