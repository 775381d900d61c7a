"""
What processes share: used one-time tokens, counts, looks, and rows of workers.

Other counts, the problems that last and the looks of workers are in the table of the
alerts.  Their names have several words, and that of an alert has one.  The count of a
look is what was seen.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import Insert, ReturningInsert

from backends.sql.columns import UTCDateTime
from backends.sql.database import Database, Tables
from backends.sql.tables import alerts, rate_counters, used_tokens, workers
from backends.sql.urls import SQLITE
from backends.sql.versioned_rows import INSERT, insert_new
from signer.errors import StoreError
from signer.model.network_view import Look
from signer.model.worker_row import WorkerRow
from signer.row_macs import RowMACs


# Rows are kept for longer than they are used: a host whose clock is fast must not
# delete rows that other hosts still need.
_KEEP_TOKENS = timedelta(hours=1)
_KEEP_PERIODS = 10

_OLD = {
    table: sa.delete(table).where(column < sa.bindparam("before", type_=column.type))
    for table, column in (
        (used_tokens, used_tokens.c.expires_at),
        (rate_counters, rate_counters.c.period),
    )
}

_BETWEEN = " "
_has_words = alerts.c.name.contains(_BETWEEN)
_counts = sa.select(alerts.c.name, alerts.c["count"])
_ALERTS = _counts.where(~_has_words)
_SHARED = _counts.where(_has_words).limit(5000)

_LOOK = f"look{_BETWEEN}"
_LAST_LOOK = sa.select(alerts.c.last_at, alerts.c["count"]).where(
    alerts.c.name == sa.bindparam("of_name")
)
_REPLACE_LOOK = (
    sa.update(alerts)
    .where(
        alerts.c.name == sa.bindparam("of_name"),
        alerts.c.last_at == sa.bindparam("before", type_=UTCDateTime),
    )
    .values(last_at=sa.bindparam("at", type_=UTCDateTime), count=sa.bindparam("seen"))
)

_PROBLEM = f"lasting{_BETWEEN}"  # Before the key, in the name of a row.
_MOST_PROBLEMS = 1000
_LASTS = alerts.c["count"] > 0
_RESOLVE = (
    sa.update(alerts)
    .where(alerts.c.name == sa.bindparam("of_name"), _LASTS)
    .values(count=0, last_at=sa.bindparam("at", type_=UTCDateTime))
)
_LASTING = (
    sa.select(alerts.c.name)
    .where(alerts.c.name.startswith(_PROBLEM), _LASTS)
    .limit(_MOST_PROBLEMS)
)

_LAST_ALERT = sa.select(alerts.c.last_at).where(
    alerts.c.name == sa.bindparam("of_name")
)

_MOST_WORKERS = 100
"""Every process reads the rows often: a role that may insert some can insert many."""

_WORKERS = sa.select(workers).order_by(workers.c.passed_at.desc()).limit(_MOST_WORKERS)
_REMOVE_WORKER = sa.delete(workers).where(workers.c.name == sa.bindparam("of_name"))
_FORGET_WORKERS = sa.delete(workers).where(
    workers.c.passed_at < sa.bindparam("before", type_=UTCDateTime)
)


class SharedTables(Tables):
    """Implements ``SharedState``."""

    def __init__(self, database: Database, macs: RowMACs | None = None) -> None:
        super().__init__(database, macs)
        # The last time, and the last period, at which this process deleted old rows.
        self._deleted: dict[sa.Table, Any] = {}

    @property
    def has_one_writer(self) -> bool:
        return self._database.dialect == SQLITE

    def workers(self) -> Sequence[WorkerRow]:
        return tuple(WorkerRow(*row) for row in self._database.rows(_WORKERS))

    def record_pass(self, worker: WorkerRow) -> None:
        row = {each.name: getattr(worker, each.name) for each in workers.c}
        upsert = _upsert_worker(self._database.dialect)
        self._database.write(lambda c: c.execute(upsert, row).rowcount)

    def remove_worker(self, name: str) -> None:
        gone = {"of_name": name}
        self._database.write(lambda c: c.execute(_REMOVE_WORKER, gone).rowcount)

    def forget_workers(self, before: datetime) -> None:
        old = {"before": before}
        self._database.write(lambda c: c.execute(_FORGET_WORKERS, old).rowcount)

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        self._delete_old(used_tokens, now, _KEEP_TOKENS)
        use = _insert_token(self._database.dialect)
        row = {"jti": jti, "expires_at": expires_at, "now": now}
        return self._database.write(lambda c: c.execute(use, row).all()) != []

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        self._delete_old(rate_counters, period, _KEEP_PERIODS)
        add = _add_count(self._database.dialect, rate_counters)
        row = {"bucket": bucket, "period": period, "count": amount}
        total = self._database.write(lambda c: c.execute(add, row).scalar_one())
        return int(total)

    def count_alert(self, name: str, at: datetime) -> None:
        add = _add_count(self._database.dialect, alerts, "last_at")
        row = {"name": name, "count": 1, "last_at": at}
        self._database.write(lambda c: c.execute(add, row).scalar_one())

    def alert_counts(self) -> Mapping[str, int]:
        return {str(name): int(count) for name, count in self._database.rows(_ALERTS)}

    def last_alert_at(self, name: str) -> datetime | None:
        rows = self._database.rows(_LAST_ALERT, of_name=name)
        return rows[0].last_at if rows else None

    def raise_problem(self, key: str, at: datetime, before: datetime) -> bool:
        statement = _raise_problem(self._database.dialect)
        row = {"name": _PROBLEM + key, "at": at, "before": before}
        return self._database.write(lambda c: c.execute(statement, row).all()) != []

    def resolve_problem(self, key: str, at: datetime) -> bool:
        row = {"of_name": _PROBLEM + key, "at": at}
        return self._database.write(lambda c: c.execute(_RESOLVE, row).rowcount) == 1

    def lasting_problems(self) -> Collection[str]:
        rows = self._database.rows(_LASTING)
        return [row.name.removeprefix(_PROBLEM) for row in rows]

    def add_counts(self, counts: Mapping[tuple[str, ...], int], at: datetime) -> None:
        add = _add_count(self._database.dialect, alerts, "last_at")
        # In one order, so that two processes do not wait for each other.
        rows = [
            {"name": _BETWEEN.join(words), "count": count, "last_at": at}
            for words, count in sorted(counts.items())
        ]

        def work(connection: sa.Connection) -> None:
            for row in rows:
                connection.execute(add, row)

        self._database.transaction(work)

    def shared_counts(self) -> Mapping[tuple[str, ...], int]:
        return {
            tuple(name.split(_BETWEEN)): int(count)
            for name, count in self._database.rows(_SHARED)
        }

    def last_look(self, name: str) -> Look | None:
        rows = self._database.rows(_LAST_LOOK, of_name=_LOOK + name)
        return Look(*rows[0]) if rows else None

    def save_look(self, name: str, before: Look | None, after: Look) -> bool:
        name = _LOOK + name
        if before is None:
            new = insert_new(self._database.dialect, alerts)
            row = {"name": name, "count": after.seen, "last_at": after.at}
            return self._database.write(lambda c: c.execute(new, row).all()) != []
        row = {"of_name": name, "before": before.at, "at": after.at, "seen": after.seen}
        changed = self._database.write(lambda c: c.execute(_REPLACE_LOOK, row).rowcount)
        return bool(changed)

    def _delete_old(self, table: sa.Table, now: Any, keep: Any) -> None:
        last = self._deleted.get(table)
        if last is None or abs(now - last) >= keep:
            self._deleted[table] = now
            # The caller did not ask for this: after a failure it is tried next time.
            with suppress(StoreError):
                old = {"before": now - keep}
                self._database.write(lambda c: c.execute(_OLD[table], old).rowcount)


def _upsert_worker(dialect: str) -> Insert:
    insert = INSERT[dialect](workers)
    changed = ("passed_at", "metrics")
    return insert.on_conflict_do_update(
        index_elements=[workers.c.name],
        set_={name: insert.excluded[name] for name in changed},
    )


def _insert_token(dialect: str) -> ReturningInsert[Any]:
    """Return an insert that returns a row, unless the token was already used."""
    insert = INSERT[dialect](used_tokens).values(
        jti=sa.bindparam("jti"),
        expires_at=sa.bindparam("expires_at", type_=UTCDateTime),
    )
    return insert.on_conflict_do_update(
        index_elements=[used_tokens.c.jti],
        set_={"expires_at": insert.excluded.expires_at},
        where=used_tokens.c.expires_at < sa.bindparam("now", type_=UTCDateTime),
    ).returning(sa.literal_column("1", sa.Integer))


def _raise_problem(dialect: str) -> ReturningInsert[Any]:
    """Return an insert that returns a row, unless the problem was recorded lately."""
    at = sa.bindparam("at", type_=UTCDateTime)
    row = {"name": sa.bindparam("name"), "count": 1, "last_at": at}
    insert = INSERT[dialect](alerts).values(row)
    last = alerts.c.last_at
    return insert.on_conflict_do_update(
        index_elements=[alerts.c.name],
        set_={"count": 1, "last_at": insert.excluded.last_at},
        where=(alerts.c["count"] == 0)
        | (last <= sa.bindparam("before", type_=UTCDateTime))
        | (last > insert.excluded.last_at),
    ).returning(sa.literal_column("1", sa.Integer))


def _add_count(dialect: str, table: sa.Table, *latest: str) -> ReturningInsert[Any]:
    """
    Return an insert that adds to the count of an existing row, and returns the sum.

    The columns *latest* get the new values.
    """
    insert = INSERT[dialect](table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={
            "count": table.c["count"] + insert.excluded["count"],
            **{name: insert.excluded[name] for name in latest},
        },
    ).returning(table.c["count"])
