"""``hotwallet worker`` and ``hotwallet up``: process accepted refunds."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from threading import Event

import click

from api.cli.output import show_title


_COLLECT_AFTER = 10_000
"""New objects.  A batch makes more than Python's default of 700, and none is garbage
before its end."""


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
    from api.background_threads import start_threads
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
    start_threads(container, "worker")
    gc.freeze()  # What lives until the end is no garbage.
    gc.set_threshold(_COLLECT_AFTER)
    container.worker.run(lambda: once or stop.is_set(), interval)
    container.heartbeat.end()  # Not after a failure, which must be noticed.


_POLL_SECONDS = 0.2
_KILLED_BY = 128  # Plus the signal's number: the exit status that shells use.


@click.command()
def up() -> None:
    """
    Run the API and a worker, until one of them ends or a signal arrives.

    Both read the same settings.  For processes with fewer privileges, run `hotwallet
    serve --role` and `hotwallet worker` separately.
    """
    show_title("up")
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # `nohup` ignores SIGHUP, which a terminal sends when it is closed.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    command = [sys.executable, "-P", "-m", "api.cli", "--no-env-file"]
    sys.exit(run_together(([*command, "serve"], [*command, "worker"]), stop))


def run_together(commands: Sequence[Sequence[str]], stop: Event) -> int:
    """
    Run *commands* until one ends or *stop* is set; then end them all.

    Return the exit status of the first that ended.
    """
    # In sessions of their own, or a terminal's Ctrl-C would reach them as well.
    processes = [
        subprocess.Popen(command, start_new_session=True)  # noqa: S603  Our interpreter.
        for command in commands
    ]
    while all(process.poll() is None for process in processes):
        if stop.wait(_POLL_SECONDS):
            break
    ended = [each for each in processes if each.poll() is not None]
    for process in processes:
        process.terminate()  # Does nothing if it has ended.
    for process in processes:
        process.wait()
    status = (ended or processes)[0].returncode
    return _KILLED_BY - status if status < 0 else status
