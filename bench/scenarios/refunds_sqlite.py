"""Durable refunds over HTTP on SQLite, against the non-durable loop."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.devices import open_softhsm
from bench.harness import Prepared, Scenario
from bench.refund_rates import refund_figures, refund_works
from bench.servers import constant_server, running_service


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    key = open_softhsm(folder / "loop")
    with (
        running_service(folder / "stack") as service,
        constant_server(service) as server,
    ):
        works = refund_works(service, key, server.url, settles=not is_quick)
        figures = refund_figures(at_least={16: 0.45, 64: 0.5}, batch_at_least=0.8)
        yield Prepared(figures, list(works))


SCENARIO = Scenario(
    "refunds-sqlite",
    "Durable refunds on SQLite: 2 API processes, 1 worker",
    _open,
    rounds=5,
    seconds=3.0,
    quick_seconds=0.3,
)
