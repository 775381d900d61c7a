"""``hotwallet worker``: process accepted refunds."""

from __future__ import annotations

import os
import signal
from threading import Event

import click

from api.cli.output import show_title


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0, 10, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between two passes.",
)
@click.option("--once", is_flag=True, help="Make one pass, then exit.")
def worker(interval: float, once: bool) -> None:
    """
    Process accepted refunds: send, resend and confirm their transactions.

    Only workers do that: without one, accepted refunds stay queued.

    Runs until it receives SIGTERM or SIGINT.
    """
    from api.background_threads import (
        start_loops_of_extras,
        start_policy_reload,
        start_sealer,
        start_shared_meter,
        start_wallet_monitor,
        start_webhooks,
        start_worker_monitor,
    )
    from api.bootstrap import open_container, record_start
    from api.logs import configure
    from signer.config.settings import Settings

    show_title("worker")
    configure(Settings.from_env(os.environ))
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    container = open_container(serving=False)
    record_start(container, "worker")
    start_sealer(container)
    start_webhooks(container)
    start_worker_monitor(container)
    start_shared_meter(container)
    start_policy_reload(container, "worker")
    start_wallet_monitor(container)
    start_loops_of_extras(container)
    container.worker.run(lambda: once or stop.is_set(), interval)
    container.heartbeat.end()  # Not after a failure, which must be noticed.
