"""Reads the facts of the ledger at each scrape, so a restart loses none."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta

from prometheus_client.core import Metric

from api.health.readiness import unsealed_seconds
from api.health.secrets import find_secrets
from api.metrics import metric_names
from api.metrics.readings import Names, Readings, family, read
from api.metrics.shared_meter import read_shared
from signer.alerts import Alert
from signer.approvals import read_open_approvals
from signer.audit.checkpoints import Verify, find_newest
from signer.audit.shipping import trusted
from signer.config.networks import Network
from signer.model.key import KeyState, find_active_key
from signer.model.refund import OPEN
from signer.model.worker_row import WorkerRow, find_running, find_stopped
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
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """
        Report *networks*, *tenants* and the policy's *rules* of now, by name.

        *clock* is the ledger's, and *environ* sets the secrets whose ages are reported.
        """
        self._environ = environ or {}
        self._ledger = ledger
        self._verify = verify
        self._clock = clock
        self._networks = networks
        self._names = Names(networks, tenants, rules)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples; StoreError if there is no answer."""
        found = read_shared(self._ledger.shared_counts(), self._names)
        counts = self._ledger.alert_counts()
        # Include alerts that were never raised: a rate needs an earlier sample.
        for name in sorted({*Alert, *counts}):
            found.set(metric_names.ALERTS, name, value=counts.get(name, 0))
        in_force = sum(stop.in_force for stop in self._ledger.stops())
        found.set(metric_names.STOPPED, value=in_force)
        self._read_keys(found)
        self._read_audit(found)
        self._read_refunds(found)
        self._read_wallets(found)
        self._read_approvals(found)
        self._read_webhooks(found)
        running = self._read_workers(found)
        specs = (*metric_names.OF_LEDGER, *metric_names.OF_PROCESSES)
        yield from found.families(specs)
        measured = [(each.name, read(each.metrics)) for each in running]
        for spec in metric_names.OF_WORKERS:
            metric = family(spec, "worker")
            for name, readings in measured:
                readings.fill(metric, spec, worker=name)
            yield metric

    def _read_keys(self, found: Readings) -> None:
        keys = self._ledger.keys()
        by_state = Counter(key.state for key in keys)
        for state in KeyState:
            found.set(metric_names.KEYS, state, value=by_state[state])
        active = find_active_key(keys)
        epoch = 0 if active is None else active.epoch or 0
        found.set(metric_names.KEY_EPOCH, value=epoch)
        now = self._clock()
        for each in find_secrets(self._environ, active):
            if (age := each.age(now)) is not None:
                name, life = each.secret.name, each.secret.life
                found.set(metric_names.SECRET_AGE, name, value=age.total_seconds())
                found.set(metric_names.SECRET_LIFE, name, value=life.total_seconds())

    def _read_audit(self, found: Readings) -> None:
        sealed, _ = self._ledger.head()
        found.set(metric_names.AUDIT_RECORDS, value=sealed)
        oldest = unsealed_seconds(self._ledger.oldest_unsealed(), self._clock)
        found.set(metric_names.AUDIT_UNSEALED, value=oldest)
        shipping = self._ledger.shipping()
        if shipping is not None and shipping.place:
            now = self._clock()
            seconds = (now - trusted(shipping.complete_at, now)).total_seconds()
            found.set(metric_names.AUDIT_UNSHIPPED, value=max(0.0, seconds))
        last = find_newest(self._ledger, self._verify).statement
        size = 0 if last is None else last.size
        found.set(metric_names.CHECKPOINT_RECORDS, value=size)
        if last is not None:
            seconds = (self._clock() - last.at).total_seconds()
            found.set(metric_names.CHECKPOINT_AGE, value=seconds)

    def _read_refunds(self, found: Readings) -> None:
        now = self._clock()
        since = {(name, status): now for name in self._networks for status in OPEN}
        for each in self._ledger.open_refunds():
            network = self._names.bound("network", each.network)
            kind = network, each.tenant, each.status, each.blocked_by or ""
            found.add(metric_names.REFUNDS_OPEN, *kind, by=each.number)
            oldest = since.get((network, each.status), now)
            since[network, each.status] = min(oldest, each.since)
        for (network, status), first in sorted(since.items()):
            seconds = (now - first).total_seconds()
            found.set(metric_names.REFUND_OLDEST, network, status, value=seconds)
        accepted = self._ledger.accepted_since(now - _RECENT)
        for (network, tenant), count in accepted.items():
            found.add(metric_names.REFUNDS_ACCEPTED, network, tenant, by=count)

    def _read_wallets(self, found: Readings) -> None:
        names = {network.chain_id: name for name, network in self._networks.items()}
        active = self._ledger.active_key()
        for name in self._networks:
            found.set(metric_names.WALLETS_PAUSED, name, value=0)
        for wallet in self._ledger.wallets():
            name = names.get(wallet.chain_id, "")
            if not name:
                continue
            found.add(metric_names.WALLETS_PAUSED, name, by=wallet.is_paused)
            if active is not None and wallet.sender == active.address:
                found.set(metric_names.WALLET_NONCE, name, value=wallet.next_nonce)

    def _read_approvals(self, found: Readings) -> None:
        now = self._clock()
        for each in read_open_approvals(self._ledger).approvals:
            if not each.is_expired(now):
                found.add(metric_names.APPROVALS, each.action)

    def _read_webhooks(self, found: Readings) -> None:
        for backlog in self._ledger.webhook_backlog():
            for state, count in (
                ("waiting", backlog.pending - backlog.failing),
                ("failing", backlog.failing),
                ("given-up", backlog.dead),
            ):
                found.add(
                    metric_names.WEBHOOK_DELIVERIES, backlog.tenant, state, by=count
                )

    def _read_workers(self, found: Readings) -> Sequence[WorkerRow]:
        """Add whether workers run, and return those that do."""
        workers, now = self._ledger.workers(), self._clock()
        running, stopped = find_running(workers, now), find_stopped(workers, now)
        found.set(metric_names.WORKERS, "running", value=len(running))
        found.set(metric_names.WORKERS, "stopped", value=len(stopped))
        for worker in (*running, *stopped):
            age = max(0.0, (now - worker.passed_at).total_seconds())
            found.set(metric_names.WORKER_AGE, worker.name, value=age)
        return running
