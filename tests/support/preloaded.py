"""
Commands of ``hotwallet``, each in a fork of one process that has imported everything.

Importing takes two seconds, and most commands take a tenth of one.  A fork runs the
command from ``main`` to its exit, with its own environment, arguments, output, signals
and ``atexit``, and without open files or connections of the parent.  Only ``ps`` shows
the name of the parent.

``python -m tests.support.preloaded`` reads the commands and forks.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from api.cli import __main__ as cli


ROOT = Path(__file__).parents[2]

_IMPORTED = (
    *(command.target.partition(":")[0] for command in cli.cli.lazy.values()),
    "api.bootstrap",
    "backends.aws_kms",
    "backends.json_rpc",
    "backends.pkcs11",
    "backends.sql.migrate",
    "backends.webhook",
    "psycopg",
    "softhsm.doctor",
    "softhsm.provision",
)

_SECONDS = 60

Command = tuple[Sequence[str], Mapping[str, str]]
"""Arguments, and an environment."""


@dataclass(frozen=True, slots=True)
class Run:
    """One command in its *environ*, whose output goes to files in *folder*."""

    folder: str
    command: Sequence[str]
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a command."""

    status: int
    stdout: str
    stderr: str


def run(folder: Path, commands: Sequence[Command], at_once: int = 3) -> list[Finished]:
    """Run *commands*, *at_once* at a time; their output stays in *folder*."""
    runs = [
        Run(str(folder / str(number)), command, environ)
        for number, (command, environ) in enumerate(commands)
    ]
    for each in runs:
        Path(each.folder).mkdir(parents=True)
    asked = json.dumps([asdict(each) for each in runs])
    server = subprocess.run(
        [sys.executable, "-m", "tests.support.preloaded", str(at_once)],
        cwd=ROOT,
        input=asked,
        capture_output=True,
        text=True,
        timeout=_SECONDS * len(runs),
        check=False,
    )
    assert server.returncode == 0, server.stderr
    return [
        Finished(status, _read(each, "stdout"), _read(each, "stderr"))
        for each, status in zip(runs, json.loads(server.stdout), strict=True)
    ]


def _read(finished: Run, name: str) -> str:
    return (Path(finished.folder) / name).read_text(encoding="utf-8")


def _fork_all(runs: Sequence[Run], at_once: int) -> list[int] | None:
    """Return all statuses; in a prepared child, return None."""
    living: dict[int, int] = {}
    statuses = [0] * len(runs)
    for number, each in enumerate(runs):
        if len(living) == at_once:
            _reap(living, statuses)
        pid = os.fork()
        if not pid:
            _become(each)
            return None
        living[pid] = number
    while living:
        _reap(living, statuses)
    return statuses


def _reap(living: dict[int, int], statuses: list[int]) -> None:
    pid, status = os.wait()
    statuses[living.pop(pid)] = os.waitstatus_to_exitcode(status)


def _become(each: Run) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        path = Path(each.folder) / name
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(each.environ)
    sys.argv[1:] = each.command
    signal.alarm(_SECONDS)  # Also ends the master of gunicorn.


def _import_everything() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    # Otherwise the garbage collector of each fork would copy all shared memory, which
    # costs ten times as much as a command.
    gc.freeze()


def main() -> None:
    """Fork, wait and print the statuses; a child runs its command."""
    runs = [Run(**each) for each in json.load(sys.stdin)]
    _import_everything()
    statuses = _fork_all(runs, int(sys.argv[1]))
    if statuses is None:
        cli.main()
    sys.stdout.write(json.dumps(statuses))


if __name__ == "__main__":
    main()
