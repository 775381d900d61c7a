"""
Stops a network by the rules of its ``automatic_stop``.

The rules count what was signed and how refunds ended, on all hosts together.  A rule
never resumes a network, and counts only what came after the last resume: an operator
has judged the rest.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from signer.amounts import format_units, parse_units
from signer.config.networks import Network
from signer.model.audit_record import WORKER
from signer.model.refund import Status
from signer.model.stop import EVERYTHING, Stop
from signer.ports import Clock, Ledger
from signer.refunds.kill_switch import KillSwitch
from signer.refunds.row_alarm import RowAlarm


INTERVAL_SECONDS = 0.05
"""Shorter than most batches of refunds: a burst exceeds a rule by about one batch."""

# The next check waits this many times as long as the last one took, so that checks use
# little of the database, however many rows they read.
_REST = 20

_BEGINNING = datetime.min.replace(tzinfo=UTC)


class AutomaticStop:
    """Evaluates the rules of all networks, at most 20 times a second."""

    def __init__(
        self,
        store: Ledger,
        kill_switch: KillSwitch,
        networks: Mapping[str, Network],
        clock: Clock,
        *,
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
        self._alarm = alarm
        self._timer = timer
        self._next_at = float("-inf")

    def check(self) -> None:
        """Stop each network of which a rule is broken; raises ``StoreError``."""
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
        broken = next(self._broken_rules(network, resumed_at), None)
        if broken is not None:
            self._kill_switch.stop(name, f"automatic: {broken}", WORKER)

    def _broken_rules(self, network: Network, resumed_at: datetime) -> Iterator[str]:
        """Yield what breaks a rule, the cheapest rule first."""
        window = timedelta(minutes=network.automatic_stop.window_minutes)
        since = max(self._clock() - window, resumed_at)
        yield from self._broken_count(network, since)
        yield from self._broken_failures(network, resumed_at)
        hour = max(self._clock() - timedelta(hours=1), resumed_at)
        yield from self._broken_gas(network, hour)
        yield from self._broken_amounts(network, since)

    def _broken_count(self, network: Network, since: datetime) -> Iterator[str]:
        rules, limit = network.automatic_stop, network.automatic_stop.max_refunds
        if limit is None:
            return
        if self._store.signed_refunds(network.chain_id, since, limit + 1) > limit:
            yield f"more than {limit} refunds in {rules.window_minutes} minutes"

    def _broken_failures(self, network: Network, since: datetime) -> Iterator[str]:
        rules, size = network.automatic_stop, network.automatic_stop.failed_of_last
        if rules.max_failed_percent is None:
            return
        results = self._store.last_results(network.chain_id, since, size)
        failed = results.count(Status.FAILED)
        if len(results) == size and failed * 100 > rules.max_failed_percent * size:
            yield f"{failed} of the last {size} refunds failed"

    def _broken_gas(self, network: Network, since: datetime) -> Iterator[str]:
        largest = network.automatic_stop.max_gas_per_hour
        if largest is None:
            return
        gas = self._store.signed_gas(network.chain_id, since)
        if gas > largest:
            yield f"{gas} gas in an hour, more than {largest}"

    def _broken_amounts(self, network: Network, since: datetime) -> Iterator[str]:
        rules = network.automatic_stop
        if not rules.max_amounts:
            return
        amounts = self._store.signed_amounts(network.chain_id, since)
        for symbol, largest in rules.max_amounts.items():
            token = network.tokens[symbol]
            amount = amounts.get(token.address, 0)
            if amount > parse_units(largest, token.decimals):
                paid = format_units(amount, token.decimals)
                minutes = rules.window_minutes
                yield f"{paid} {symbol} in {minutes} minutes, more than {largest}"
