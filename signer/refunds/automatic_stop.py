"""
Blocks a tenant or stops a network, by the rules of its ``automatic_stop``.

The rules count what was signed and how refunds ended, on all hosts together.  If a rule
holds without one tenant, that tenant is blocked, so that it does not stop the others.
Otherwise the network is stopped.  A rule ends neither, and counts only what came after
the last resume, or after the tenant was unblocked: an operator has judged the rest.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from signer.alerts import Alert, Alerts
from signer.amounts import format_units, parse_units
from signer.config.networks import Network
from signer.model.audit_record import WORKER
from signer.model.refund import FILLER, SWEEPER, Status
from signer.model.stop import EVERYTHING, Stop
from signer.ports import Clock, Ledger
from signer.ports.payment_statistics import Signed
from signer.refunds.kill_switch import KillSwitch
from signer.refunds.row_alarm import RowAlarm
from signer.refunds.tenant_admin import TenantAdmin


INTERVAL_SECONDS = 0.05
"""Shorter than most batches of refunds: a burst exceeds a rule by about one batch."""

# The next check waits this many times as long as the last one took, so that checks use
# little of the database, however many rows they read.
_REST = 20

_BEGINNING = datetime.min.replace(tzinfo=UTC)

_INTERNAL = frozenset({SWEEPER, FILLER})

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Rule:
    """The ``shares`` of tenants, whose sum must not be more than ``largest``."""

    largest: int
    shares: Mapping[str, int]
    reason: str

    @property
    def total(self) -> int:
        return sum(self.shares.values())


class AutomaticStop:
    """Evaluates the rules of all networks, at most 20 times a second."""

    def __init__(
        self,
        store: Ledger,
        kill_switch: KillSwitch,
        networks: Mapping[str, Network],
        clock: Clock,
        *,
        tenant_admin: TenantAdmin,
        alerts: Alerts,
        alarm: RowAlarm,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._kill_switch = kill_switch
        self._networks = {
            name: network
            for name, network in networks.items()
            if network.automatic_stop.has_rules
        }
        self._clock = clock
        self._tenant_admin = tenant_admin
        self._alerts = alerts
        self._alarm = alarm
        self._timer = timer
        self._next_at = float("-inf")

    def check(self) -> None:
        """Block or stop where a rule is broken; raises ``StoreError``."""
        if not self._networks or self._timer() < self._next_at:
            return
        began = self._timer()
        try:
            stops = {stop.chain_id: stop for stop in self._store.stops()}
            for name, network in self._networks.items():
                self._check_network(name, network, stops)
        finally:
            ended = self._timer()
            self._next_at = ended + max(INTERVAL_SECONDS, _REST * (ended - began))

    def _check_network(
        self, name: str, network: Network, stops: Mapping[int, Stop]
    ) -> None:
        last = [stops[id_] for id_ in (EVERYTHING, network.chain_id) if id_ in stops]
        for stop in last:
            if not stop.is_authentic:
                self._alarm.report(stop.error(), "stops")
        if any(stop.in_force for stop in last):
            return
        resumed_at = max(
            (stop.resumed_at for stop in last if stop.resumed_at), default=_BEGINNING
        )
        for rule in self._exceeded(network, resumed_at):
            if rule.total > rule.largest:
                self._enforce(name, rule, f"automatic: {rule.reason}")
                return

    def _enforce(self, name: str, rule: _Rule, reason: str) -> None:
        """Block the tenant without which *rule* holds, or else stop the network."""
        tenants = {t: n for t, n in rule.shares.items() if t not in _INTERNAL}
        tenant = max(tenants, key=tenants.__getitem__, default="")
        if rule.total - tenants.get(tenant, 0) > rule.largest:
            self._kill_switch.stop(name, reason, WORKER)
        elif self._tenant_admin.block(tenant, replace(WORKER, reason=reason)):
            facts = {"network": name, "tenant": tenant, "reason": reason}
            self._alerts.sound(Alert.SIGNING_STOPPED, actor=WORKER.name, **facts)

    def _exceeded(self, network: Network, resumed_at: datetime) -> Iterator[_Rule]:
        """Yield each rule that all tenants together exceed, the cheapest rule first."""
        minutes = network.automatic_stop.window_minutes
        since = max(self._clock() - timedelta(minutes=minutes), resumed_at)
        yield from self._count(network, since)
        yield from self._failures(network, resumed_at)
        hour = max(self._clock() - timedelta(hours=1), resumed_at)
        yield from self._gas(network, hour)
        yield from self._amounts(network, since)

    def _count(self, network: Network, since: datetime) -> Iterator[_Rule]:
        rules, limit = network.automatic_stop, network.automatic_stop.max_refunds
        if limit is None:
            return
        if self._store.signed_refunds(network.chain_id, since, limit + 1) > limit:
            signed = self._signed(network, since)
            shares = {t: n.refunds for t, n in signed.items() if t not in _INTERNAL}
            text = f"more than {limit} refunds in {rules.window_minutes} minutes"
            yield _Rule(limit, shares, text)

    def _failures(self, network: Network, since: datetime) -> Iterator[_Rule]:
        rules, size = network.automatic_stop, network.automatic_stop.failed_of_last
        if rules.max_failed_percent is None:
            return
        results = self._store.last_results(network.chain_id, since, size)
        largest = rules.max_failed_percent * size // 100
        if len(results) == size:
            begins = self._begins()
            failed = Counter(
                tenant
                for tenant, status, at in results
                if status is Status.FAILED and at >= begins.get(tenant, since)
            )
            text = f"{failed.total()} of the last {size} refunds failed"
            yield _Rule(largest, failed, text)

    def _gas(self, network: Network, since: datetime) -> Iterator[_Rule]:
        largest, chain_id = network.automatic_stop.max_gas_per_hour, network.chain_id
        if largest is None or self._store.signed_gas(chain_id, since) <= largest:
            return
        signed = self._signed(network, since)
        shares = {tenant: each.gas for tenant, each in signed.items()}
        gas = sum(shares.values())
        yield _Rule(largest, shares, f"{gas} gas in an hour, more than {largest}")

    def _amounts(self, network: Network, since: datetime) -> Iterator[_Rule]:
        rules = network.automatic_stop
        if not rules.max_amounts:
            return
        amounts = self._store.signed_amounts(network.chain_id, since)
        for symbol, largest in rules.max_amounts.items():
            token = network.tokens[symbol]
            most = parse_units(largest, token.decimals)
            if amounts.get(token.address, 0) <= most:
                continue
            signed = self._signed(network, since)
            shares = {
                tenant: each.amounts.get(token.address, 0)
                for tenant, each in signed.items()
                if tenant not in _INTERNAL
            }
            paid = format_units(sum(shares.values()), token.decimals)
            minutes = rules.window_minutes
            text = f"{paid} {symbol} in {minutes} minutes, more than {largest}"
            yield _Rule(most, shares, text)

    def _signed(self, network: Network, since: datetime) -> Mapping[str, Signed]:
        """Return what counts of each tenant since *since*."""
        found = dict(self._store.signed_by_tenant(network.chain_id, since))
        for tenant, begin in self._begins().items():
            if tenant in found and begin > since:
                later = self._store.signed_by_tenant(network.chain_id, begin)
                found[tenant] = later.get(tenant, Signed())
        return found

    def _begins(self) -> Mapping[str, datetime]:
        """Return from when on each tenant counts that was ever blocked."""
        return {
            each.tenant: _NEVER if each.in_force else each.ended_at or _NEVER
            for each in self._store.last_blocks()
        }
