"""The stops of the kill switch, and the conditions that depend on them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Exists, bindparam, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from backends.sql.advisory_locks import lock_keys
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.schema import stops
from signer.errors import StoreUnavailableError
from signer.model.stop import EVERYTHING, Stop


_ALL = select(stops).order_by(stops.c.chain_id)

_IN_FORCE = (
    select(stops)
    .where(
        stops.c.chain_id.in_([EVERYTHING, bindparam("of_chain")]),
        stops.c.resumed_at.is_(None),
    )
    .order_by(stops.c.chain_id)
    .limit(1)
)

_RESUME = (
    update(stops)
    .where(stops.c.chain_id == bindparam("of_chain"), stops.c.resumed_at.is_(None))
    .values(resumed_at=bindparam("ended_at", type_=UTCDateTime))
)


def _stop(insert: sqlite.Insert | postgresql.Insert) -> ReturningInsert[Any]:
    # A stop in force keeps its reason.
    return insert.on_conflict_do_update(
        index_elements=[stops.c.chain_id],
        set_={name: insert.excluded[name] for name in stops.c.keys()[1:]},
        where=stops.c.resumed_at.is_not(None),
    ).returning(stops.c.chain_id)


_STOP = {
    "sqlite": _stop(sqlite.insert(stops)),
    "postgresql": _stop(postgresql.insert(stops)),
}


def is_stopped(chain_id: Any) -> Exists:
    """Return the condition that a stop forbids signatures on *chain_id*."""
    return exists().where(
        stops.c.chain_id.in_([EVERYTHING, chain_id]), stops.c.resumed_at.is_(None)
    )


def require_running(connection: Connection, chain_id: int) -> None:
    """Raise ``SigningStoppedError`` if a stop forbids signatures on *chain_id*."""
    found = connection.execute(_IN_FORCE, {"of_chain": chain_id}).first()
    if found is not None:
        raise Stop(*found).error()


class StopTables(Tables):
    """Implements ``signer.ports.StopStore``."""

    def stop(self, stop: Stop) -> bool:
        statement, row = _STOP[self._database.dialect], asdict(stop)
        changed = self._database.write(lambda c: c.execute(statement, row).all() != [])
        # The stop is in force.  Wait for reservations and intents that may have begun
        # before: they share this lock.  One that hangs must not fail the stop, and what
        # it signs is not recorded.
        with suppress(StoreUnavailableError):
            self._database.transaction(lambda c: lock_keys(c, shared=False))
        return changed

    def resume_signing(self, chain_id: int, at: datetime) -> bool:
        params = {"of_chain": chain_id, "ended_at": at}
        return self._database.write(lambda c: c.execute(_RESUME, params).rowcount > 0)

    def stops(self) -> Sequence[Stop]:
        return tuple(Stop(*row) for row in self._database.rows(_ALL))

    def find_stop(self, chain_id: int) -> Stop | None:
        rows = self._database.rows(_IN_FORCE, of_chain=chain_id)
        return Stop(*rows[0]) if rows else None
