"""What work costs with little and with much beside it, in one run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from api import logs
from bench.growth.audit import audit
from bench.growth.backlog import backlog
from bench.growth.refund_steps import refund_steps
from bench.growth.tenants import tenants
from bench.growth.wallets import wallets
from bench.harness import Prepared, Scenario


_PARTS = (refund_steps, wallets, backlog, tenants, audit)


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with contextlib.ExitStack() as cleanup:
        # The processes of the service write their logs as in production.
        logs.install(stream=cleanup.enter_context((folder / "log").open("w")))
        comparisons = [
            comparison
            for part in _PARTS
            for comparison in cleanup.enter_context(part(folder, is_quick=is_quick))
        ]
        figures = [figure for each in comparisons for figure in each.figures]
        yield Prepared(figures, [each.work for each in comparisons])


SCENARIO = Scenario(
    "growth", "Cost as work grows", _open, rounds=5, seconds=2.0, quick_seconds=0.05
)
