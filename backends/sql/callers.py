"""Those who call, and what was rung: tokens used up, attempts and alerts counted."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Delete,
    Integer,
    Table,
    bindparam,
    delete,
    literal_column,
    select,
)
from sqlalchemy.sql.dml import ReturningInsert

from backends.sql.columns import UTCDateTime
from backends.sql.database import Database
from backends.sql.schema import alerts, attempts, used_tokens
from backends.sql.statements import INSERT
from signer.errors import StoreError


# Rows stay for longer than anybody asks for them: a host whose clock is fast must not
# throw away what the others still go by.
_TOKENS_STAY = timedelta(hours=1)
_PERIODS_STAY = 10

_FORGET_TOKENS = delete(used_tokens).where(
    used_tokens.c.expires_at < bindparam("before", type_=UTCDateTime)
)
_FORGET_ATTEMPTS = delete(attempts).where(attempts.c.period < bindparam("before"))

_ALERTS = select(alerts.c.name, alerts.c["count"])


class CallerTables:
    """What ``Callers`` and ``AlertCounters`` promise, in a statement each."""

    # When this process last threw away what is too old.
    _tokens_forgotten: datetime | None = None
    _attempts_forgotten: int | None = None

    def __init__(self, database: Database) -> None:
        self._database = database

    def use_token(self, jti: str, expires_at: datetime, now: datetime) -> bool:
        self._forget_tokens(now)
        use = _use(self._database.dialect)
        given = {"jti": jti, "expires_at": expires_at, "now": now}
        return self._database.write(lambda c: c.execute(use, given).all()) != []

    def count(self, bucket: str, period: int, amount: int = 1) -> int:
        self._forget_attempts(period)
        add = _added(self._database.dialect, attempts)
        given = {"bucket": bucket, "period": period, "count": amount}
        total = self._database.write(lambda c: c.execute(add, given).scalar_one())
        return int(total)

    def count_alert(self, name: str, at: datetime) -> None:
        add = _added(self._database.dialect, alerts, "last_at")
        given = {"name": name, "count": 1, "last_at": at}
        self._database.write(lambda c: c.execute(add, given).scalar_one())

    def alert_counts(self) -> Mapping[str, int]:
        rows = self._database.run(lambda c: c.execute(_ALERTS).all())
        return {str(name): int(count) for name, count in rows}

    def _forget_tokens(self, now: datetime) -> None:
        last = self._tokens_forgotten
        if last is None or abs(now - last) > _TOKENS_STAY:
            self._tokens_forgotten = now
            self._forget(_FORGET_TOKENS, now - _TOKENS_STAY)

    def _forget_attempts(self, period: int) -> None:
        last = self._attempts_forgotten
        if last is None or abs(period - last) >= _PERIODS_STAY:
            self._attempts_forgotten = period
            self._forget(_FORGET_ATTEMPTS, period - _PERIODS_STAY)

    def _forget(self, old: Delete, before: datetime | int) -> None:
        # Nobody came for this: where it fails, it waits for the next time.
        with suppress(StoreError):
            self._database.write(lambda c: c.execute(old, {"before": before}).rowcount)


def _use(dialect: str) -> ReturningInsert[Any]:
    """Return an insert that returns a row, unless the token is used up already."""
    insert = INSERT[dialect](used_tokens).values(
        jti=bindparam("jti"),
        expires_at=bindparam("expires_at", type_=UTCDateTime),
    )
    return insert.on_conflict_do_update(
        index_elements=[used_tokens.c.jti],
        set_={"expires_at": insert.excluded.expires_at},
        where=used_tokens.c.expires_at < bindparam("now", type_=UTCDateTime),
    ).returning(literal_column("1", Integer))


def _added(dialect: str, table: Table, *latest: str) -> ReturningInsert[Any]:
    """Return an insert that adds to the row that is there, and returns the sum."""
    insert = INSERT[dialect](table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={
            "count": table.c["count"] + insert.excluded["count"],
            **{name: insert.excluded[name] for name in latest},
        },
    ).returning(table.c["count"])
