"""What an operator should look at first: the overview lists it before anything else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from api.extras.console.rendering import format_duration
from api.extras.console.wallets import Measurements
from api.health.readiness import Readiness, unsealed_seconds
from api.metrics.workers import read_throttled_shares
from api.views.administration import describe_stop
from signer.alerts import Alert
from signer.approvals import OpenApprovals
from signer.audit.sealing_monitor import LATE
from signer.config.networks import Network
from signer.keys.throttle_window import THROTTLED_SHARE
from signer.model.key import find_active_key
from signer.model.network_view import LAGGING_BLOCKS
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.ledger import Ledger
from signer.refunds.late_refunds import LATE_SECONDS, find_oldest, waited_seconds


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

    *code* has a page under ``/problems``, and *href* is the page of the console that
    shows more.
    """

    urgency: Urgency
    text: str
    code: str | None = None
    href: str | None = None


@dataclass(frozen=True, slots=True)
class OverviewFacts:
    """What the overview has read."""

    now: datetime
    readiness: Readiness
    workers: Sequence[WorkerRow]
    measurements: Measurements
    approvals: OpenApprovals
    networks: Mapping[str, Network]


def find_notices(ledger: Ledger, facts: OverviewFacts) -> Sequence[Notice]:
    """Return what needs attention, the most urgent first; raises ``StoreError``."""
    found = [
        *_stops(ledger, facts),
        *_checks(facts),
        *_workers(facts),
        *_keys(ledger),
        *_wallets(ledger, facts),
        *_delegations(facts),
        *_balances(facts),
        *_top_ups(facts),
        *_chains(facts),
        *_nodes(facts),
        *_device(facts),
        *_refunds(ledger, facts),
        *_approvals(facts),
        *_audit(ledger, facts),
        *_webhooks(ledger),
    ]
    shown = {notice.code for notice in found}
    found += [each for each in _alerts(ledger, facts) if each.code not in shown]
    order = list(Urgency)
    return sorted(found, key=lambda notice: order.index(notice.urgency))


def _stops(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    names = {network.chain_id: name for name, network in facts.networks.items()}
    for stop in ledger.stops():
        if not stop.in_force:
            continue
        text = describe_stop(stop, names)
        yield Notice(Urgency.NOW, text, "signing-stopped", "/console/stops")


_OTHERWISE_SHOWN = frozenset({"signing-stopped", "worker-stopped"})


def _checks(facts: OverviewFacts) -> Iterator[Notice]:
    for name, result in facts.readiness.checks.items():
        if result not in {"ok", *_OTHERWISE_SHOWN}:
            yield Notice(Urgency.NOW, f"The check of {name} reports {result}", result)


def _workers(facts: OverviewFacts) -> Iterator[Notice]:
    if not find_running(facts.workers, facts.now):
        yield Notice(
            Urgency.NOW,
            "No worker runs: refunds are accepted, and wait",
            "worker-stopped",
        )
    for worker in find_stopped(facts.workers, facts.now):
        age = format_duration(facts.now - worker.passed_at)
        yield Notice(
            Urgency.NOW,
            f"Worker {worker.name} has completed no pass for {age}",
            "worker-stopped",
        )


def _keys(ledger: Ledger) -> Iterator[Notice]:
    if find_active_key(ledger.keys()) is None:
        yield Notice(
            Urgency.NOW, "No key is active: nothing can be signed", href="/console/keys"
        )


def _wallets(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    names = {network.chain_id: name for name, network in facts.networks.items()}
    for wallet in ledger.wallets():
        if wallet.is_paused:
            name = names.get(wallet.chain_id, f"chain {wallet.chain_id}")
            yield Notice(
                Urgency.NOW,
                f"The wallet {wallet.sender} of {name} is paused"
                f" ({wallet.pause_reason}): it assigns no nonces",
                "wallet-paused",
                "/console/wallets",
            )


def _delegations(facts: OverviewFacts) -> Iterator[Notice]:
    for network in facts.measurements.delegated:
        yield Notice(
            Urgency.NOW,
            f"The wallet's address on {network} has code of others, which can move its"
            " funds",
            Alert.WALLET_DELEGATED,
            "/console/wallets",
        )


def _balances(facts: OverviewFacts) -> Iterator[Notice]:
    for asset in facts.measurements.assets:
        network = facts.networks.get(asset.network)
        if network is not None and asset.is_low(network):
            yield Notice(
                Urgency.SOON,
                f"The balance of {asset.name} on {asset.network} is low"
                f"{_left(asset.refunds_left, asset.hours_left)}",
                Alert.LOW_BALANCE,
                "/console/wallets",
            )


def _top_ups(facts: OverviewFacts) -> Iterator[Notice]:
    for asset in facts.measurements.assets:
        if asset.is_top_up_failing:
            yield Notice(
                Urgency.SOON,
                f"The treasury does not top up {asset.name} on {asset.network}",
                Alert.TOP_UP_FAILING,
                "/console/wallets",
            )


def _left(refunds: float | None, hours: float | None) -> str:
    parts = []
    if refunds is not None:
        parts.append(f"about {refunds:.0f} refunds")
    if hours is not None:
        parts.append(f"{hours:.0f} hours")
    return f": {' or '.join(parts)} are left" if parts else ""


def _chains(facts: OverviewFacts) -> Iterator[Notice]:
    for network in facts.measurements.without_quorum:
        yield Notice(
            Urgency.NOW,
            f"Too few nodes of {network} answer and agree: nothing is sent there",
            Alert.QUORUM_LOST,
            "/console/wallets",
        )
    for network, age in facts.measurements.head_ages.items():
        known = facts.networks.get(network)
        if known is not None and 0 < known.stalled_after_seconds < age:
            yield Notice(
                Urgency.NOW,
                f"{network} has had no new block for {format_duration(age)}",
                Alert.CHAIN_STALLED,
                "/console/wallets",
            )


def _nodes(facts: OverviewFacts) -> Iterator[Notice]:
    for node in facts.measurements.nodes:
        name = f"{node.name} of {node.network}"
        if node.is_up is False:
            yield Notice(
                Urgency.SOON,
                f"{name} does not answer, or contradicts the others",
                Alert.NODE_DOWN,
                "/console/wallets",
            )
        if node.lag is not None and node.lag > LAGGING_BLOCKS:
            yield Notice(
                Urgency.SOON,
                f"{name} lags the others by {node.lag:.0f} blocks",
                Alert.NODE_LAGGING,
                "/console/wallets",
            )


def _device(facts: OverviewFacts) -> Iterator[Notice]:
    for backend, share in sorted(
        read_throttled_shares(facts.workers, facts.now).items()
    ):
        if share > THROTTLED_SHARE:
            yield Notice(
                Urgency.SOON,
                f"{backend} rejects {100 * share:.0f} % of the workers' calls because"
                " of their rate",
                Alert.BACKEND_THROTTLED,
            )


def _refunds(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    groups = ledger.open_refunds()
    for network, oldest in find_oldest(groups).items():
        seconds = waited_seconds(oldest, facts.now)
        if seconds > LATE_SECONDS:
            yield Notice(
                Urgency.NOW,
                f"A refund on {network} has been {oldest.status} for"
                f" {format_duration(seconds)}",
                Alert.REFUNDS_LATE,
                "/console/refunds",
            )
    blocked: dict[str, int] = {}
    for group in groups:
        if group.blocked_by is not None:
            blocked[group.blocked_by] = blocked.get(group.blocked_by, 0) + group.number
    for code, number in sorted(blocked.items(), key=lambda each: -each[1]):
        refunds = "1 refund is" if number == 1 else f"{number} refunds are"
        yield Notice(
            Urgency.SOON, f"{refunds} delayed by {code}", code, "/console/refunds"
        )


def _approvals(facts: OverviewFacts) -> Iterator[Notice]:
    waiting = sum(
        not each.is_expired(facts.now) and each.decided_by is None
        for each in facts.approvals.approvals
    )
    if waiting:
        changes = "1 change waits" if waiting == 1 else f"{waiting} changes wait"
        yield Notice(
            Urgency.SOON, f"{changes} for a decision", None, "/console/approvals"
        )
    if facts.approvals.changed:
        yield Notice(
            Urgency.NOW,
            f"Another program changed or inserted {facts.approvals.changed} proposals",
            Alert.ROW_CHANGED,
            "/console/approvals",
        )


def _audit(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    seconds = unsealed_seconds(ledger.oldest_unsealed(), lambda: facts.now)
    if seconds > LATE.total_seconds():
        yield Notice(
            Urgency.SOON,
            f"An audit record has waited for its seal for {format_duration(seconds)}",
            Alert.SEALING_LATE,
            "/console/audit",
        )


def _webhooks(ledger: Ledger) -> Iterator[Notice]:
    for backlog in ledger.webhook_backlog():
        if backlog.dead or backlog.failing:
            yield Notice(
                Urgency.SOON,
                f"The webhook of {backlog.tenant} fails. Events that are sent again:"
                f" {backlog.failing}; given up: {backlog.dead}",
                Alert.WEBHOOK_FAILING,
                "/console/webhooks",
            )


def _alerts(ledger: Ledger, facts: OverviewFacts) -> Iterator[Notice]:
    for name, count in sorted(ledger.alert_counts().items()):
        last = ledger.last_alert_at(name)
        if last is None or facts.now - last > _RECENT:
            continue
        age = format_duration(facts.now - last)
        yield Notice(
            Urgency.KNOWN,
            f"Alert {name}: last {age} ago, {count} in all",
            name,
        )
