"""``hotwallet up``: the API and a worker, as two processes that end together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

import click


_POLL_SECONDS = 0.2
_KILLED_BY = 128  # Plus the signal's number: the exit status that shells use.


@click.command()
def up() -> None:
    """
    Run the API and a worker, until one of them ends or a signal arrives.

    Both read the same settings.  For processes with fewer privileges, run `hotwallet
    serve --role` and `hotwallet worker` separately.
    """
    command = [sys.executable, "-P", "-m", "api.cli", "--no-env-file"]
    sys.exit(run_together([*command, "serve"], [*command, "worker"]))


def run_together(*commands: Sequence[str]) -> int:
    """
    Run *commands* until one ends, then end the others; return the first one's status.

    SIGTERM and SIGINT are passed on, and the status is then 0 if all ended well.
    """
    processes: list[subprocess.Popen[bytes]] = []
    stopping = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        _end(processes)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # In a session of their own, or a terminal's Ctrl-C would reach them twice.
    for command in commands:
        if not stopping:
            processes.append(subprocess.Popen(command, start_new_session=True))
    while not stopping and all(each.poll() is None for each in processes):
        time.sleep(_POLL_SECONDS)
    ended = [each.returncode for each in processes if each.returncode is not None]
    _end(processes)
    statuses = [each.wait() for each in processes]
    status = max(map(abs, statuses), default=0) if stopping else ended[0]
    return _KILLED_BY - status if status < 0 else status


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
