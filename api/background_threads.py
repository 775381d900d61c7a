"""
The threads that a process runs beside its main work, until it ends.

They are daemons: one may end at any line, and the ledger stays consistent.
"""

from collections.abc import Callable
from functools import partial
from threading import Event, Thread

from api.bootstrap import accept_rules, prepare_rules
from api.container import Container
from api.extension import find_hooks
from api.worker_parts import open_dispatcher
from signer.audit.sealer import Sealer
from signer.config.policy_files import read_policy_files
from signer.refunds.wallet_monitor import WalletMonitor
from signer.refunds.worker_monitor import WorkerMonitor
from signer.startup.dependency_checks import check_chain
from signer.startup.policy_reload import PolicyReload


def start_sealer(container: Container) -> None:
    """Seal audit records."""
    sealer = Sealer(
        container.store,
        container.checkpoint_settings,
        container.alerts,
        container.clock,
        audit=container.audit,
        sealing_alert=container.sealing_alert,
    )
    _start(partial(sealer.run, Event().wait), "sealer")


def start_webhooks(container: Container) -> None:
    """Sequence events, and send them to webhooks."""
    _start(partial(open_dispatcher(container).run, lambda: False), "webhooks")


def start_worker_monitor(container: Container) -> None:
    """Watch the workers."""
    monitor = WorkerMonitor(container.store, container.alerts, container.ledger_clock)
    _start(partial(monitor.run, Event().wait), "worker-monitor")


def start_wallet_monitor(container: Container) -> None:
    """Watch funds and nodes, in a worker."""
    monitor = WalletMonitor(
        container.store,
        container.chains,
        container.alerts,
        name=container.heartbeat.name,
        clock=container.ledger_clock,
        meter=container.meter,
        check=lambda name, chain: check_chain(name, chain.network, chain.client),
    )
    _start(partial(monitor.run, Event().wait), "wallet-monitor")


def start_loops_of_extras(container: Container) -> None:
    """Start what extras add to a worker."""
    for find_loops in find_hooks("worker_loops"):
        for name, run in find_loops(container):
            _start(partial(run, Event().wait), name)


def start_shared_meter(container: Container) -> None:
    """Store what the process counts for all processes."""
    run, store = container.shared_meter.run, container.store
    _start(partial(run, store, container.ledger_clock, Event().wait), "shared-meter")


def start_policy_reload(container: Container, process: str) -> None:
    """Apply changed rules of ``POLICY_DIR``, recorded as a start of *process*."""
    directory = container.settings.policy_dir
    if directory is None:
        return
    reload = PolicyReload(
        container.policy,
        container.policy_files,
        read=partial(read_policy_files, directory),
        prepare=partial(prepare_rules, container, directory),
        accept=partial(accept_rules, container, process),
        audit=container.audit,
        alerts=container.alerts,
    )
    _start(partial(reload.run, Event().wait), "policy-reload")


def _start(run: Callable[[], None], name: str) -> None:
    Thread(target=run, name=name, daemon=True).start()
