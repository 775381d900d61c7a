"""
The threads that a process runs beside its main work, until it ends.

They are daemons: one may end at any line, and the ledger stays consistent.
"""

from collections.abc import Callable, Iterator
from functools import partial
from threading import Event, Thread

from api.bootstrap import accept_rules, check_network, prepare_rules
from api.container import Container
from api.extension import find_hooks
from api.process_parts import open_dispatcher
from signer.config.policy_files import read_policy_files
from signer.loops import Wait
from signer.model.audit_record import WORKER
from signer.refunds.wallet_monitor import WalletMonitor
from signer.refunds.worker_monitor import WorkerMonitor
from signer.startup.policy_reload import PolicyReload


Run = Callable[[Wait], object]
"""Runs until the function that it gets, which waits some seconds, returns true."""


def start_threads(container: Container, process: str) -> None:
    is_worker = process == WORKER.name
    if is_worker or container.settings.serve_role.seals_audit:
        start_sealer(container)
    loops = [*_loops(container, process)]
    if is_worker:
        loops += _loops_of_worker(container)
    for name, run in loops:
        _start(name, run)


def start_sealer(container: Container) -> None:
    _start("sealer", container.sealer.run)


def _loops(container: Container, process: str) -> Iterator[tuple[str, Run]]:
    store, clock = container.store, container.ledger_clock
    yield "worker-monitor", WorkerMonitor(store, container.alerts, clock).run
    yield "shared-meter", partial(container.shared_meter.run, store, clock)
    directory = container.settings.policy_dir
    if directory is not None:
        reload = PolicyReload(
            container.policy,
            container.policy_files,
            read=partial(read_policy_files, directory),
            prepare=partial(prepare_rules, container, directory),
            accept=partial(accept_rules, container, process),
            audit=container.audit,
            alerts=container.alerts,
        )
        yield "policy-reload", reload.run


def _loops_of_worker(container: Container) -> Iterator[tuple[str, Run]]:
    dispatcher = open_dispatcher(container)
    yield "webhooks", lambda _: dispatcher.run(lambda: False)
    monitor = WalletMonitor(
        container.store,
        container.chains,
        container.alerts,
        name=container.heartbeat.name,
        clock=container.ledger_clock,
        meter=container.meter,
        check=partial(check_network, container),
    )
    yield "wallet-monitor", monitor.run
    for find_loops in find_hooks("worker_loops"):
        yield from find_loops(container)


def _start(name: str, run: Run) -> None:
    Thread(target=partial(run, Event().wait), name=name, daemon=True).start()
