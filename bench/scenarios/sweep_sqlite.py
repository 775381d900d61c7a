"""Numbers of processes and threads, on SQLite."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Prepared, Scenario
from bench.servers import running_service
from bench.sweep import API, CHAIN, SIZES, WORKER, sweep_figures, sweep_works


_PARTS = (API, WORKER, CHAIN)


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    sizes = SIZES[:1] if is_quick else SIZES
    with running_service(folder) as service:
        service.stop("serve", "worker")
        works = list(sweep_works(service, sizes, _PARTS))
        yield Prepared(sweep_figures(sizes, _PARTS), works)


SCENARIO = Scenario(
    "sweep-sqlite",
    "Processes and threads on SQLite",
    _open,
    rounds=3,
    seconds=3.0,
    quick_seconds=0.3,
)
