"""CPU, memory and database connections of processes; prometheus_client reads them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from api.metrics import metric_names
from api.metrics.metric_names import Spec
from api.metrics.readings import Readings


_CPU, _MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"

Connections = Callable[[], tuple[int, int]]
"""Returns how many connections of the pool are in use, and the most that it opens."""


@dataclass(eq=False, repr=False)
class ProcessFigures(Collector):
    """
    Measures *pids* together, and this process's pool.

    *specs* are the metrics of CPU time, memory and connections, in this order.
    """

    specs: Sequence[Spec]
    connections: Connections
    pids: Callable[[], Iterable[int]] = lambda: [os.getpid()]

    def measure(self, readings: Readings) -> None:
        """Set the three metrics of now; a process that has ended counts nothing."""
        cpu, memory, pool = self.specs
        found = [_read(pid) for pid in self.pids()]
        readings.set(cpu, value=sum(each.get(_CPU, 0.0) for each in found))
        readings.set(memory, value=sum(each.get(_MEMORY, 0.0) for each in found))
        for state, number in zip(("used", "most"), self.connections(), strict=True):
            readings.set(pool, state, value=number)

    def collect(self) -> Iterator[Metric]:
        readings = Readings()
        self.measure(readings)
        yield from readings.families(self.specs)


def worker_figures(connections: Connections) -> ProcessFigures:
    specs = (
        metric_names.WORKER_CPU,
        metric_names.WORKER_MEMORY,
        metric_names.WORKER_CONNECTIONS,
    )
    return ProcessFigures(specs, connections)


def server_figures(connections: Connections) -> ProcessFigures:
    """Return the figures of this process and of its siblings: gunicorn's workers."""
    specs = (
        metric_names.SERVER_CPU,
        metric_names.SERVER_MEMORY,
        metric_names.SERVER_CONNECTIONS,
    )
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
