"""
Kills and pauses processes at random instants.

A seed fixes the order of the victims and the pauses between them, but not what a
process is doing when it is killed.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.processes import children
from tests.crash.supervisor import Supervisor


# Percentages.  A host's children are the gunicorn master and the workers; its
# grandchildren are gunicorn's workers, which serve the API.
_WEIGHTS = {"grandchild": 50, "child": 44, "host": 6}


class Killer:
    """
    Kills the hosts of *supervisor* and their descendants.

    *weights* are the relative frequencies of host, child and grandchild.
    """

    def __init__(
        self, supervisor: Supervisor, seed: int, weights: Mapping[str, int] = _WEIGHTS
    ) -> None:
        self._supervisor = supervisor
        self._weights = dict(weights)
        self._random = random.Random(seed)
        self.count = 0
        """The number of kills and pauses so far."""

    def kill(self) -> bool:
        """Kill one process, and return whether there was one."""
        (generation,) = self._random.choices(
            list(self._weights), list(self._weights.values())
        )
        with self._victim(generation) as victim:
            return victim is not None and self._signal(victim, signal.SIGKILL)

    def pause(self, seconds: float, sleep: Callable[[float], None]) -> bool:
        """Stop one API process (SIGSTOP), and continue it *seconds* later."""
        with self._victim("grandchild") as victim:
            if victim is None or not self._signal(victim, signal.SIGSTOP):
                return False
            try:
                sleep(seconds)
            finally:
                _send(victim, signal.SIGCONT)
            return True

    def wait(self, most: float) -> float:
        """Return the seconds until the next kill."""
        return self._random.uniform(0, most)

    def _signal(self, handle: int, number: signal.Signals) -> bool:
        is_sent = _send(handle, number)
        self.count += is_sent
        return is_sent

    @contextmanager
    def _victim(self, generation: str) -> Iterator[int | None]:
        """Yield a pidfd of a process of that *generation*, or None."""
        processes = sorted(each for each in self._processes() if each[0] == generation)
        if not processes:
            yield None
            return
        _, parent, pid = self._random.choice(processes)
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # From here on the handle refers to this process even if its id is reused.
            yield handle if _parent(pid) == parent else None
        finally:
            os.close(handle)

    def _processes(self) -> Iterator[tuple[str, int, int]]:
        """Yield each process's generation, its parent's id, and its own."""
        for program in self._supervisor.programs.values():
            if program.name.startswith("host") and program.is_alive:
                host = program.pid
                yield "host", _parent(host), host
                for child in children(host):
                    yield "child", host, child
                    for grandchild in children(child):
                        yield "grandchild", child, grandchild


def _send(handle: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)
        return True
    return False


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The name, in parentheses, may contain any character.
    return int(status.rpartition(")")[2].split()[1])
