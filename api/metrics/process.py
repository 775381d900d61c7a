"""CPU, memory and database connections of processes; prometheus_client reads them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from api.metrics import catalogue
from api.metrics.catalogue import Spec


_CPU, _MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"

Connections = Callable[[], tuple[int, int]]
"""Returns how many connections of the pool are in use, and the most that it opens."""


class ProcessFigures(Collector):
    """A collector of the figures of *pids* together, and of this process's pool."""

    def __init__(
        self,
        specs: Sequence[Spec],
        connections: Connections,
        pids: Callable[[], Iterable[int]] = lambda: [os.getpid()],
    ) -> None:
        """Report CPU time, memory and connections as the *specs*, in this order."""
        self._specs = specs
        self._connections = connections
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        """Yield the three metrics; a process that has ended counts nothing."""
        cpu = memory = 0.0
        for pid in self._pids():
            figures = _read(pid)
            cpu += figures.get(_CPU, 0.0)
            memory += figures.get(_MEMORY, 0.0)
        used, most = self._connections()
        pool = {"used": float(used), "most": float(most)}
        values: Sequence[Sequence[tuple[dict[str, str], float]]] = (
            [({}, cpu)],
            [({}, memory)],
            [({"state": state}, number) for state, number in pool.items()],
        )
        for spec, samples in zip(self._specs, values, strict=True):
            family = catalogue.family(spec)
            for labels, value in samples:
                family.add_sample(spec.name, labels, value)
            yield family


def worker_figures(connections: Connections) -> ProcessFigures:
    """Return the figures of this process, a worker."""
    specs = catalogue.WORKER_CPU, catalogue.WORKER_MEMORY, catalogue.WORKER_CONNECTIONS
    return ProcessFigures(specs, connections)


def server_figures(connections: Connections) -> ProcessFigures:
    """Return the figures of this process and of its siblings: gunicorn's workers."""
    specs = catalogue.SERVER_CPU, catalogue.SERVER_MEMORY, catalogue.SERVER_CONNECTIONS
    return ProcessFigures(specs, connections, _find_siblings)


def _find_siblings() -> Iterator[int]:
    """Yield this process and the other forks of its parent, which have its command."""
    parent = os.getppid()
    yield os.getpid()
    with suppress(OSError, ValueError):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        for pid in map(int, children.split()):
            if pid != os.getpid() and _command(pid) == _command(os.getpid()):
                yield pid


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _read(pid: int) -> dict[str, float]:
    found = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {each.name: each.value for family in found for each in family.samples}
