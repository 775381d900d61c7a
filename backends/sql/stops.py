"""The stops of the kill switch, and the conditions that depend on them."""

from collections.abc import Sequence
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
from signer.model.stop import EVERYTHING, Stop


_ALL = select(stops).order_by(stops.c.chain_id)

_IN_FORCE = (
    select(stops)
    .where(
        stops.c.chain_id.in_(bindparam("chains", expanding=True)),
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


def require_running(connection: Connection, chains: Sequence[int]) -> None:
    """Raise ``SigningStoppedError`` if a stop of one of *chains* is in force."""
    found = connection.execute(_IN_FORCE, {"chains": list(chains)}).first()
    if found is not None:
        raise Stop(*found).error()


class StopTables(Tables):
    """Implements ``signer.ports.StopStore``."""

    def stop(self, stop: Stop) -> bool:
        statement = _STOP[self._database.dialect]

        def work(connection: Connection) -> bool:
            # Waits for reservations and intents in progress, which share the lock.
            lock_keys(connection, shared=False)
            return connection.execute(statement, asdict(stop)).first() is not None

        return self._database.transaction(work)

    def resume_signing(self, chain_id: int, at: datetime) -> bool:
        params = {"of_chain": chain_id, "ended_at": at}
        return self._database.write(lambda c: c.execute(_RESUME, params).rowcount > 0)

    def stops(self) -> Sequence[Stop]:
        return tuple(Stop(*row) for row in self._database.rows(_ALL))

    def find_stop(self, chain_id: int) -> Stop | None:
        rows = self._database.rows(_IN_FORCE, chains=[EVERYTHING, chain_id])
        return Stop(*rows[0]) if rows else None
