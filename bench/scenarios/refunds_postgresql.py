"""Durable refunds over HTTP on PostgreSQL, with two workers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.devices import open_softhsm
from bench.harness import Prepared, Scenario
from bench.postgresql import postgresql_database
from bench.refund_rates import refund_figures, refund_works
from bench.service import constant_server, running_service


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    key = open_softhsm(folder / "loop")
    with (
        postgresql_database() as url,
        running_service(
            folder / "stack", settings={"DATABASE_URL": url}, workers=2
        ) as service,
        constant_server(service) as server,
    ):
        works = refund_works(service, key, server.url, settles=not is_quick)
        yield Prepared(refund_figures(at_least=0.35), list(works))


SCENARIO = Scenario(
    "refunds-postgresql",
    "Durable refunds on PostgreSQL: 2 API processes, 2 workers",
    _open,
    rounds=5,
    seconds=3.0,
    quick_seconds=0.3,
)
