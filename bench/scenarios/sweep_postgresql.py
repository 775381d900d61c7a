"""Numbers of processes and threads, on PostgreSQL."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Prepared, Scenario
from bench.postgresql import postgresql_database
from bench.servers import running_service
from bench.sweep import (
    API,
    CHAIN,
    DATABASE,
    SIZES,
    WORKER,
    sweep_figures,
    sweep_works,
)


_PARTS = (API, WORKER, DATABASE, CHAIN)


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    sizes = SIZES[:1] if is_quick else SIZES
    with (
        postgresql_database() as url,
        running_service(folder, settings={"DATABASE_URL": url}) as service,
    ):
        service.stop("serve", "worker")
        works = list(sweep_works(service, sizes, _PARTS))
        yield Prepared(sweep_figures(sizes, _PARTS), works)


SCENARIO = Scenario(
    "sweep-postgresql",
    "Processes and threads on PostgreSQL",
    _open,
    rounds=3,
    seconds=3.0,
    quick_seconds=0.3,
)
