"""
Kills and pauses processes at seeded random instants.

The seed fixes who is struck in which order and how long it waits in between; what
the victim is doing at that moment is the machine's choice.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.crash.supervisor import Supervisor


# Of a hundred kills, how many go to whom.  A host's children are the gunicorn master
# and the workers; its grandchildren are gunicorn's workers, which serve the API.
_WEIGHTS = {"grandchild": 50, "child": 44, "host": 6}


@dataclass(frozen=True, slots=True)
class Strike:
    """What was done to whom."""

    kind: str
    whom: str
    pid: int
    at: float


class Killer:
    """
    Strikes at the hosts of *supervisor*, and at what they started.

    *weights* say how often at whom.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        seed: int,
        weights: Mapping[str, int] = _WEIGHTS,
    ) -> None:
        self._supervisor = supervisor
        self._weights = dict(weights)
        self._random = random.Random(seed)
        self.strikes: list[Strike] = []

    def kill(self) -> bool:
        """Kill one process; say whether there was one."""
        (whom,) = self._random.choices(
            list(self._weights), list(self._weights.values())
        )
        with self._victim(whom) as victim:
            return victim is not None and self._strike("kill", whom, victim)

    def pause(self, seconds: float, sleep: Callable[[float], None]) -> bool:
        """Stop one API process in its tracks, and let it go on *seconds* later."""
        with self._victim("grandchild") as victim:
            if victim is None or not self._strike("pause", "grandchild", victim):
                return False
            try:
                sleep(seconds)
            finally:
                _send(victim[1], signal.SIGCONT)
            return True

    def wait(self, most: float) -> float:
        """Return how long to wait for the next strike, in seconds."""
        return self._random.uniform(0, most)

    def _strike(self, kind: str, whom: str, victim: tuple[int, int]) -> bool:
        pid, handle = victim
        number = signal.SIGKILL if kind == "kill" else signal.SIGSTOP
        if not _send(handle, number):
            return False
        self.strikes.append(Strike(kind, whom, pid, time.monotonic()))
        return True

    @contextmanager
    def _victim(self, whom: str) -> Iterator[tuple[int, int] | None]:
        """Yield the id of one of *whom*, and an open handle on it, if there is one."""
        family = sorted(member for member in self._family() if member[0] == whom)
        if not family:
            yield None
            return
        _, parent, pid = self._random.choice(family)
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # The handle means this process from here on, whoever gets its number.
            yield (pid, handle) if _parent(pid) == parent else None
        finally:
            os.close(handle)

    def _family(self) -> Iterator[tuple[str, int, int]]:
        """Yield what each process is, its parent's id, and its own."""
        for program in self._supervisor.programs.values():
            if program.name.startswith("host") and program.is_alive:
                host = program.process.pid
                yield "host", os.getpid(), host
                for child in _children(host):
                    yield "child", host, child
                    for grandchild in _children(child):
                        yield "grandchild", child, grandchild


def _send(handle: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)
        return True
    return False


def _children(pid: int) -> list[int]:
    """Return the child processes of *pid*, those of its main thread (proc(5))."""
    try:
        names = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(name) for name in names]


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The name, in parentheses, may hold anything.
    return int(status.rpartition(")")[2].split()[1])
