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
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta

from signer.alerts import Alerts
from signer.amounts import format_units, parse_units
from signer.config.networks import Network
from signer.model.audit_record import WORKER
from signer.model.hold import EVERYTHING, Hold
from signer.model.refund import OPERATOR, Status
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import SignedTotals
from signer.refunds.hold_admin import Holds


INTERVAL_SECONDS = 0.05
"""Shorter than most batches of refunds: a burst exceeds a rule by about one batch."""

# The next check waits this many times as long as the last one took, so that checks use
# little of the database, however many rows they read.
_REST = 20

_BEGINNING = datetime.min.replace(tzinfo=UTC)

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Rule:
    """The ``shares`` of tenants, whose sum must not be more than ``largest``."""

    name: str
    largest: int
    shares: Mapping[str, int]
    reason: str

    @property
    def total(self) -> int:
        return sum(self.shares.values())


@dataclass(eq=False, repr=False)
class AutomaticStop:
    """Evaluates the rules of all networks, at most 20 times a second."""

    store: Ledger
    holds: Holds
    networks: Mapping[str, Network]
    clock: Clock
    _: KW_ONLY
    alarm: Alerts
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._networks = {
            name: network
            for name, network in self.networks.items()
            if network.automatic_stop.has_rules
        }
        self._next_at = float("-inf")

    def check(self) -> None:
        """Block or stop where a rule is broken; raises ``StoreError``."""
        if not self._networks or self.timer() < self._next_at:
            return
        began = self.timer()
        try:
            stops = {s.chain_id: s for s in self.store.stops() if not s.token}
            for name, network in self._networks.items():
                self._check_network(name, network, stops)
        finally:
            ended = self.timer()
            self._next_at = ended + max(INTERVAL_SECONDS, _REST * (ended - began))

    def _check_network(
        self, name: str, network: Network, stops: Mapping[int, Hold]
    ) -> None:
        last = [stops[id_] for id_ in (EVERYTHING, network.chain_id) if id_ in stops]
        for stop in last:
            if not stop.is_authentic:
                self.alarm.report_row(stop.error(), "stops")
        if any(stop.in_force for stop in last):
            return
        resumed_at = max(
            (stop.ended_at for stop in last if stop.ended_at), default=_BEGINNING
        )
        for rule in self._rules(network, resumed_at):
            if rule.total > rule.largest:
                self._enforce(name, rule)
                return

    def _enforce(self, name: str, rule: _Rule) -> None:
        """Block the tenant without which *rule* holds, or else stop the network."""
        tenants = {t: n for t, n in rule.shares.items() if t != OPERATOR}
        tenant = max(tenants, key=tenants.__getitem__, default="")
        reason = f"automatic: {rule.reason}"
        largest = sorted(rule.shares, key=rule.shares.__getitem__, reverse=True)[:10]
        # As text: JSON has no integers of 256 bits.
        evidence = {
            "network": name,
            "rule": rule.name,
            "largest": str(rule.largest),
            "counted": str(rule.total),
            "tenants": {each: str(rule.shares[each]) for each in largest},
        }
        if rule.total - tenants.get(tenant, 0) > rule.largest:
            self.holds.stop(name, WORKER.because(reason), evidence=evidence)
        else:
            self.holds.block(tenant, WORKER.because(reason), evidence)

    def _rules(self, network: Network, resumed_at: datetime) -> Iterator[_Rule]:
        """Yield each rule that *network* has, with the shares of the tenants."""
        rules, now = network.automatic_stop, self.clock()
        since = max(now - timedelta(minutes=rules.window_minutes), resumed_at)
        signed: Mapping[str, SignedTotals] = {}
        if rules.max_refunds is not None or rules.max_amounts:
            signed = self._signed(network, since)
            signed = {t: each for t, each in signed.items() if t != OPERATOR}
        if rules.max_refunds is not None:
            shares = {tenant: each.refunds for tenant, each in signed.items()}
            text = f"more than {rules.max_refunds} refunds"
            text += f" in {rules.window_minutes} minutes"
            yield _Rule("max_refunds", rules.max_refunds, shares, text)
        yield from self._failures(network, resumed_at)
        if rules.max_gas_per_hour is not None:
            hour = max(now - timedelta(hours=1), resumed_at)
            all_signed = self._signed(network, hour).items()
            shares = {tenant: each.gas for tenant, each in all_signed}
            text = f"{sum(shares.values())} gas in an hour"
            text += f", more than {rules.max_gas_per_hour}"
            yield _Rule("max_gas_per_hour", rules.max_gas_per_hour, shares, text)
        for symbol, largest in rules.max_amounts.items():
            token = network.tokens[symbol]
            shares = {t: n.amounts.get(token.address, 0) for t, n in signed.items()}
            paid = format_units(sum(shares.values()), token.decimals)
            text = f"{paid} {symbol} in {rules.window_minutes} minutes"
            most = parse_units(largest, token.decimals)
            text += f", more than {largest}"
            yield _Rule(f"max_amounts.{symbol}", most, shares, text)

    def _failures(self, network: Network, since: datetime) -> Iterator[_Rule]:
        rules, size = network.automatic_stop, network.automatic_stop.failed_of_last
        if rules.max_failed_percent is None:
            return
        results = self.store.last_results(network.chain_id, since, size)
        largest = rules.max_failed_percent * size // 100
        if len(results) == size:
            begins = self._begins()
            failed = Counter(
                tenant
                for tenant, status, at in results
                if status is Status.FAILED and at >= begins.get(tenant, since)
            )
            text = f"{failed.total()} of the last {size} refunds failed"
            yield _Rule("max_failed_percent", largest, failed, text)

    def _signed(self, network: Network, since: datetime) -> Mapping[str, SignedTotals]:
        """Return what counts of each tenant since *since*."""
        found = dict(self.store.signed_by_tenant(network.chain_id, since))
        for tenant, begin in self._begins().items():
            if tenant in found and begin > since:
                later = self.store.signed_by_tenant(network.chain_id, begin)
                found[tenant] = later.get(tenant, SignedTotals())
        return found

    def _begins(self) -> Mapping[str, datetime]:
        """Return from when on each tenant counts that was ever blocked."""
        return {
            each.tenant: _NEVER if each.in_force else each.ended_at or _NEVER
            for each in self.store.last_blocks()
        }
