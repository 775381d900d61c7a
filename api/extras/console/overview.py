"""What the first page shows: what needs attention, and the service at a glance."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from api.container import Container
from api.extras.console.rendering import (
    Explorers,
    draw_qr_code,
    format_duration,
    runbook_links,
)
from api.extras.console.trends import DAY, find_blockers, plot_refunds, recent_p99
from api.extras.console.wallets import Measurements, read_measurements
from api.health.readiness import Readiness, unsealed_seconds
from api.metrics.workers import read_throttled_shares
from api.views.administration import describe_stop
from api.views.codes import load_codes
from signer.alerts import Alert
from signer.approvals import OpenApprovals
from signer.audit import shipping as shipped
from signer.audit.sealer import LATE
from signer.config.networks import Network
from signer.config.settings import Environment
from signer.errors import ConfigurationError, Refusal
from signer.keys.signing_alarm import THROTTLED_SHARE
from signer.model.key import find_active_key
from signer.model.network_view import LAGGING_BLOCKS
from signer.model.refund import OPEN, Status
from signer.model.worker_row import WorkerRow, find_running, find_stopped
from signer.ports.ledger import Ledger
from signer.refunds.wallet_monitor import LATE_SECONDS, find_oldest, waited_seconds
from signer.startup.guard import check_settings


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
    shipping = ledger.shipping()
    if shipping is not None and shipping.place:
        waited = facts.now - shipped.trusted(shipping.complete_at, facts.now)
        if waited > shipped.LATE:
            text = f"The audit log has not been shipped for {format_duration(waited)}"
            yield _soon(text, Alert.SHIPPING_LATE, "audit")
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


@dataclass(frozen=True, slots=True)
class GuardState:
    """
    The guard's *warnings*, and what it would refuse in production.

    A process that runs has passed the guard.
    """

    warnings: Sequence[str]
    in_production: Sequence[Refusal]


def read_guard(container: Container) -> GuardState:
    """Run the guard's checks of the settings again; they open nothing."""
    settings, networks = container.settings, container.networks
    strict = settings.model_copy(update={"app_env": Environment.PRODUCTION})
    refused: list[Refusal] = []
    for check in (
        partial(check_settings, strict, networks),
        partial(container.check_backend, strict),
    ):
        try:
            check()
        except ConfigurationError as e:
            refused += e.refusals
    try:
        warnings = check_settings(settings, networks)
        warnings += container.check_backend(settings)
    except ConfigurationError as e:  # The files were changed after the start.
        warnings = [str(refusal) for refusal in e.refusals]
    return GuardState(warnings, refused)


_HOUR = timedelta(hours=1)


def read_overview(container: Container) -> Mapping[str, object]:
    """
    Return what the page shows; asks no node but those of the readiness check (4 s).

    ``cures`` explain the codes of the notices, and ``runbooks`` are links by code.
    ``accepted`` counts the refunds that were accepted in the last hour, and within
    ``p99`` seconds 99 % of them were broadcast.  ``qr_code`` is the active key's
    address.
    """
    ledger, now = container.store, container.ledger_clock()
    workers, networks = ledger.workers(), container.networks
    readiness, measured = container.readiness(), read_measurements(workers, now)
    facts = OverviewFacts(
        now, readiness, workers, measured, container.approvals.list(), networks
    )
    counts: Counter[Status] = Counter(dict.fromkeys(sorted(OPEN, key=_order), 0))
    oldest: dict[Status, datetime] = {}
    for group in ledger.open_refunds():
        counts[group.status] += group.number
        oldest[group.status] = min(group.since, oldest.get(group.status, now))
    settings, key = container.settings, find_active_key(ledger.keys())
    return {
        "now": now,
        "key": key,
        "environment": str(settings.app_env),
        "notices": find_notices(ledger, facts),
        "cures": {each["code"]: each for each in load_codes()},
        "runbooks": runbook_links(settings.runbook_url),
        "open_refunds": counts,
        "oldest": oldest,
        "accepted": sum(ledger.accepted_since(now - _HOUR).values()),
        "readiness": readiness,
        "measurements": measured,
        "workers": len(find_running(workers, now)),
        "networks": networks,
        "explorers": Explorers.of(networks),
        "guard": read_guard(container),
        "blockers": find_blockers(ledger),
        "refunds": plot_refunds(ledger, DAY, now),
        "p99": recent_p99(ledger, now),
        "qr_code": None if key is None else draw_qr_code(key.address),
    }


def _order(status: Status) -> int:
    return list(Status).index(status)
