"""Starts processes, restarts what dies, and ends all of it: by id, and only its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.anvil import ROOT


_PAUSE_SECONDS = 0.1


@dataclass
class Program:
    """A Python module that runs as a process, generation after generation."""

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    pass_fds: Sequence[int] = ()
    kept: bool = True
    generations: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    died_at: float = 0.0

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The newest generation."""
        return self.generations[-1]

    @property
    def is_alive(self) -> bool:
        """Whether the newest generation runs."""
        return _is_alive(self.process)


class Supervisor:
    """
    The processes of one laboratory; logs go to *folder*, a file per program.

    Every process ends with the *thread* that started it (``dev/with_parent.py``), so
    use it from one thread that lives as long.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: dict[str, Program] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End everything, the newest first, and without a warning."""
        for program in reversed(self.programs.values()):
            self.stop(program)

    def start(self, program: Program) -> Program:
        """Start *program*; ``tend`` restarts it if it is to be kept."""
        self.programs[program.name] = program
        self._launch(program)
        return program

    def tend(self) -> None:
        """Restart what has died, after a short pause."""
        now = time.monotonic()
        for program in self.programs.values():
            if not program.kept or program.is_alive:
                continue
            if not program.died_at:
                program.died_at = now
            elif now - program.died_at > _PAUSE_SECONDS:
                self._launch(program)

    def stop(self, program: Program) -> None:
        """End *program*, its children, and whatever earlier generations left."""
        program.kept = False
        for generation in program.generations:
            _bury(generation)

    def log(self, name: str) -> Path:
        """Return where a program writes what it has to say."""
        return self.folder / f"{name}.log"

    def _launch(self, program: Program) -> None:
        program.died_at = 0.0
        with self.log(program.name).open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    ROOT / "dev" / "with_parent.py",
                    str(os.getpid()),
                    sys.executable,
                    "-m",
                    *program.arguments,
                ],
                cwd=ROOT,
                env=dict(program.environ),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=program.pass_fds,
                process_group=0,
            )
        program.generations.append(process)


def _is_alive(process: "subprocess.Popen[bytes]") -> bool:
    """Say whether *process* runs, and leave it to be waited for."""
    if process.returncode is not None:
        return False
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is None


def _bury(process: "subprocess.Popen[bytes]") -> None:
    """
    End the whole group of *process*, and wait for it.

    Children of a master that was killed may outlive it for a moment.  Until the
    wait, the master's id, which is the group's, is nobody else's.
    """
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
