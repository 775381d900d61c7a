"""Deletes old events, and their deliveries, in small batches."""

from datetime import datetime

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    exists,
    or_,
    select,
    text,
)

from backends.sql.advisory_locks import try_to_lock_events
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.schema import events, webhook_deliveries
from signer.model.delivery import DeliveryState
from signer.model.event import sequence_at
from signer.ports.event_store import Pruned


_event = events.c
_delivery = webhook_deliveries.c
_later = events.alias("later")

_before = bindparam("before_sequence", type_=_event.sequence.type)

# One that was replayed is kept as long as a new one.
_is_needed = exists().where(
    _delivery.event_id == _event.id,
    or_(
        _delivery.state != DeliveryState.DELIVERED,
        _delivery.updated_at > bindparam("before", type_=UTCDateTime),
    ),
)

# A cursor that is older than the newest of these is known to have missed events.
_is_not_the_newest = exists().where(
    _later.c.tenant == _event.tenant,
    _later.c.sequence > _event.sequence,
    _later.c.sequence <= _before,
    text("later.sequence > 0"),
)

OLD = (
    select(_event.id, _event.sequence)
    .where(
        text("events.sequence > 0"),
        _event.sequence > bindparam("after"),
        _event.sequence <= _before,
        ~_is_needed,
        _is_not_the_newest,
    )
    .order_by(_event.sequence)
    .limit(bindparam("at_most"))
)

_DELETE_DELIVERIES, _DELETE_EVENTS = (
    delete(column.table).where(
        column.in_(bindparam("ids", type_=column.type, expanding=True))
    )
    for column in (_delivery.event_id, _event.id)
)


class RetentionTables(Tables):
    """The retention of ``signer.ports.event_store.EventStore``."""

    def prune_events(self, before: datetime, after: int, limit: int) -> Pruned | None:
        params = {
            "before": before,
            "before_sequence": sequence_at(before),
            "after": after,
            "at_most": limit,
        }

        def work(connection: Connection) -> Pruned | None:
            if not try_to_lock_events(connection):
                return None
            rows = connection.execute(OLD, params).all()
            if rows:
                ids = {"ids": sorted(row.id for row in rows)}
                connection.execute(_DELETE_DELIVERIES, ids)
                connection.execute(_DELETE_EVENTS, ids)
            return Pruned(len(rows), rows[-1].sequence if rows else after)

        if not self._database.rows(OLD, **{**params, "at_most": 1}):
            return Pruned(0, after)  # Do not take the write lock for nothing.
        return self._database.transaction(work)
