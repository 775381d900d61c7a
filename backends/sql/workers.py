"""The rows of the worker processes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.inserts import INSERT
from backends.sql.schema import workers
from signer.model.worker_row import WorkerRow


_MOST = 100
"""Every process reads the rows often: a role that may insert some can insert many."""

_ROWS = select(workers).order_by(workers.c.passed_at.desc()).limit(_MOST)

_REMOVE = delete(workers).where(workers.c.name == bindparam("of_name"))

_FORGET = delete(workers).where(
    workers.c.passed_at < bindparam("before", type_=UTCDateTime)
)


def _upsert(dialect: str) -> sqlite.Insert | postgresql.Insert:
    insert = INSERT[dialect](workers)
    changed = ("passed_at", "metrics")
    return insert.on_conflict_do_update(
        index_elements=[workers.c.name],
        set_={name: insert.excluded[name] for name in changed},
    )


_UPSERT = {dialect: _upsert(dialect) for dialect in INSERT}


class WorkerTables(Tables):
    """Implements ``signer.ports.WorkerStore``."""

    def workers(self) -> Sequence[WorkerRow]:
        return tuple(WorkerRow(*row) for row in self._database.rows(_ROWS))

    def record_pass(self, worker: WorkerRow) -> None:
        row = {each.name: getattr(worker, each.name) for each in workers.c}
        self._write(_UPSERT[self._database.dialect], row)

    def remove_worker(self, name: str) -> None:
        self._write(_REMOVE, {"of_name": name})

    def forget_workers(self, before: datetime) -> None:
        self._write(_FORGET, {"before": before})

    def _write(self, statement: Executable, values: dict[str, Any]) -> None:
        self._database.write(lambda c: c.execute(statement, values).rowcount)
