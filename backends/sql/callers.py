"""
Used one-time tokens, and the counts that all processes share.

Other counts are in the table of the alerts.  Their names have several words, and that
of an alert has one.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Table,
    bindparam,
    delete,
    literal_column,
    select,
)
from sqlalchemy.sql.dml import ReturningInsert

from backends.sql.columns import UTCDateTime
from backends.sql.database import Database, Tables
from backends.sql.inserts import INSERT
from backends.sql.schema import alerts, attempts, used_tokens
from signer.errors import StoreError
from signer.row_macs import RowMACs


# Rows are kept for longer than they are used: a host whose clock is fast must not
# delete rows that other hosts still need.
_KEEP_TOKENS = timedelta(hours=1)
_KEEP_PERIODS = 10

_OLD = {
    table: delete(table).where(column < bindparam("before", type_=column.type))
    for table, column in (
        (used_tokens, used_tokens.c.expires_at),
        (attempts, attempts.c.period),
    )
}

_BETWEEN = " "
_has_words = alerts.c.name.contains(_BETWEEN)
_counts = select(alerts.c.name, alerts.c["count"])
_ALERTS = _counts.where(~_has_words)
_SHARED = _counts.where(_has_words).limit(2000)

_LAST_ALERT = select(alerts.c.last_at).where(alerts.c.name == bindparam("of_name"))


class CallerTables(Tables):
    """Implements ``Callers``, ``AlertCounters`` and ``SharedCounters``."""

    def __init__(self, database: Database, macs: RowMACs | None = None) -> None:
        super().__init__(database, macs)
        # The last time, and the last period, at which this process deleted old rows.
        self._deleted: dict[Table, Any] = {}

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        self._delete_old(used_tokens, now, _KEEP_TOKENS)
        use = _insert_token(self._database.dialect)
        row = {"jti": jti, "expires_at": expires_at, "now": now}
        return self._database.write(lambda c: c.execute(use, row).all()) != []

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        self._delete_old(attempts, period, _KEEP_PERIODS)
        add = _add_count(self._database.dialect, attempts)
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

    def add_counts(self, counts: Mapping[tuple[str, ...], int], at: datetime) -> None:
        add = _add_count(self._database.dialect, alerts, "last_at")
        # In one order, so that two processes do not wait for each other.
        rows = [
            {"name": _BETWEEN.join(words), "count": count, "last_at": at}
            for words, count in sorted(counts.items())
        ]

        def work(connection: Connection) -> None:
            for row in rows:
                connection.execute(add, row)

        self._database.transaction(work)

    def shared_counts(self) -> Mapping[tuple[str, ...], int]:
        return {
            tuple(name.split(_BETWEEN)): int(count)
            for name, count in self._database.rows(_SHARED)
        }

    def _delete_old(self, table: Table, now: Any, keep: Any) -> None:
        last = self._deleted.get(table)
        if last is None or abs(now - last) >= keep:
            self._deleted[table] = now
            # The caller did not ask for this: after a failure it is tried next time.
            with suppress(StoreError):
                old = {"before": now - keep}
                self._database.write(lambda c: c.execute(_OLD[table], old).rowcount)


def _insert_token(dialect: str) -> ReturningInsert[Any]:
    """Return an insert that returns a row, unless the token was already used."""
    insert = INSERT[dialect](used_tokens).values(
        jti=bindparam("jti"),
        expires_at=bindparam("expires_at", type_=UTCDateTime),
    )
    return insert.on_conflict_do_update(
        index_elements=[used_tokens.c.jti],
        set_={"expires_at": insert.excluded.expires_at},
        where=used_tokens.c.expires_at < bindparam("now", type_=UTCDateTime),
    ).returning(literal_column("1", Integer))


def _add_count(dialect: str, table: Table, *latest: str) -> ReturningInsert[Any]:
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
