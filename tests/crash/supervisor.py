"""
Starts processes, restarts those that die, and ends all of them.

A process is a fork of the fork server, which imported the service once: it starts in
milliseconds instead of seconds.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

from dev.with_parent import die_with_parent
from tests.support.forkserver import FORK_SERVER


_RESTART_SECONDS = 0.1
_STOP_SECONDS = 10.0


@dataclass
class Program:
    """A function that runs as a process: ``work(*arguments)`` in *environ*."""

    name: str
    work: Callable[..., None]
    environ: Mapping[str, str]
    arguments: tuple[Any, ...] = ()
    restarts: bool = True
    processes: list[ForkServerProcess] = field(default_factory=list)
    died_at: float = 0.0

    @property
    def process(self) -> ForkServerProcess:
        return self.processes[-1]

    @property
    def pid(self) -> int:
        """The id of the newest process."""
        pid = self.process.pid
        assert pid, "not started"
        return pid

    @property
    def is_alive(self) -> bool:
        """Whether the newest process runs."""
        return self.process.is_alive()


class Supervisor:
    """
    The processes of one laboratory; each program logs to a file in *folder*.

    All of them end with this process, even after kill -9 (see ``dev/with_parent.py``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: dict[str, Program] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all processes, the newest first."""
        for program in reversed(self.programs.values()):
            self.stop(program)

    def start(self, program: Program) -> Program:
        """Start *program*; with ``restarts``, ``restart_dead`` starts it again."""
        self.programs[program.name] = program
        self._launch(program)
        return program

    def restart_dead(self) -> None:
        """Start dead programs again, after a short pause."""
        now = time.monotonic()
        for program in self.programs.values():
            if not program.restarts or program.is_alive:
                continue
            if not program.died_at:
                program.died_at = now
            elif now - program.died_at > _RESTART_SECONDS:
                self._launch(program)

    def stop(self, program: Program) -> None:
        """Kill the process group of *program*."""
        program.restarts = False
        if program.is_alive:
            # A new process may not have its group yet; then it has no children.
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.process.kill()
        for process in program.processes:
            process.join(_STOP_SECONDS)

    def log(self, name: str) -> Path:
        """Return the log file of the program *name*."""
        return self.folder / f"{name}.log"

    def _launch(self, program: Program) -> None:
        program.died_at = 0.0
        process = FORK_SERVER.Process(
            target=_run,
            args=(
                self.log(program.name),
                dict(program.environ),
                program.work,
                program.arguments,
            ),
            daemon=True,
        )
        process.start()
        program.processes.append(process)


def _run(
    log: Path,
    environ: Mapping[str, str],
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    die_with_parent(os.getppid())
    os.setpgid(0, 0)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environ)
    work(*arguments)
