"""The events of refunds: one order that readers can trust, and pages of it."""

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.types import BigInteger

from backends.sql.advisory_locks import try_to_lock_events
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.deliveries import insert_deliveries, with_refunds
from backends.sql.prepared import RowUpdate, execute
from backends.sql.tables import events, webhook_deliveries
from backends.sql.urls import POSTGRESQL
from backends.sql.validation import is_storable
from signer.model.event import DeliveryState, Event, sequence_at
from signer.model.sealed_fields import from_row
from signer.ports.event_store import EventPage, Pruned, Sequenced
from signer.row_macs import RowMACs


_event = events.c
_delivery = webhook_deliveries.c
_later = events.alias("later")

_before = sa.bindparam("before_sequence", type_=_event.sequence.type)

# One that was replayed is kept as long as a new one.
_is_needed = sa.exists().where(
    _delivery.event_id == _event.id,
    sa.or_(
        _delivery.state != DeliveryState.DELIVERED,
        _delivery.updated_at > sa.bindparam("before", type_=UTCDateTime),
    ),
)

# A cursor that is older than the newest of these is known to have missed events.
_is_not_the_newest = sa.exists().where(
    _later.c.tenant == _event.tenant,
    _later.c.sequence > _event.sequence,
    _later.c.sequence <= _before,
    sa.text("later.sequence > 0"),
)

OLD = (
    sa.select(_event.id, _event.sequence)
    .where(
        sa.text("events.sequence > 0"),
        _event.sequence > sa.bindparam("after"),
        _event.sequence <= _before,
        ~_is_needed,
        _is_not_the_newest,
    )
    .order_by(_event.sequence)
    .limit(sa.bindparam("at_most"))
)

_DELETE_DELIVERIES, _DELETE_EVENTS = (
    sa.delete(column.table).where(
        column.in_(sa.bindparam("ids", type_=column.type, expanding=True))
    )
    for column in (_delivery.event_id, _event.id)
)


SEQUENCING_LOCK = 0x6576656E74736571  # "eventseq"; the sequencing process holds it.

_FORGED = 0
"""The sequence number of events that another program wrote.  No reader sees them."""

_FUTURE = timedelta(hours=1)
"""Another program wrote a number further ahead, which must not use up the numbers."""

_SETTLED = timedelta(minutes=1)
"""After this time no transaction still commits an event with an earlier number."""


_TRY_TO_SEQUENCE = sa.select(
    sa.func.pg_try_advisory_xact_lock(sa.bindparam("lock", type_=BigInteger))
)

# Literal text, so that both databases use the partial indexes.
_IS_NEW = sa.text("sequence IS NULL")
_IS_IN_ORDER = sa.text("sequence > 0")

_ANY_NEW = sa.select(_event.id).where(_IS_NEW).limit(1)

# The events of one refund in the order of its changes.  A transaction that sees a
# change sees the earlier changes of the refund as well, so none can follow later.
NEW = (
    sa.select(events)
    .where(_IS_NEW)
    .order_by(_event.refund_id, _event.version)
    .limit(sa.bindparam("at_most"))
)

LAST = (
    sa.select(_event.sequence)
    .where(_IS_IN_ORDER, _event.sequence <= sa.bindparam("latest"))
    .order_by(_event.sequence.desc())
    .limit(1)
)

_SEQUENCE = RowUpdate(events, ["sequence"], _IS_NEW)

PAGE = (
    sa.select(events)
    .where(
        _IS_IN_ORDER,
        _event.tenant == sa.bindparam("of_tenant"),
        _event.sequence > sa.bindparam("after"),
        _event.sequence <= sa.bindparam("latest"),
    )
    .order_by(_event.sequence)
    .limit(sa.bindparam("at_most"))
)


class EventTables(Tables):
    """The order of events, of ``signer.ports.event_store.EventStore``."""

    def sequence_events(
        self, limit: int, now: datetime, has_webhook: Callable[[Event], bool]
    ) -> Sequenced | None:
        if not self._database.rows(_ANY_NEW):
            return Sequenced(0)  # Do not take the write lock for nothing.
        return self._database.transaction(
            lambda c: _sequence(c, self._macs, limit, now, has_webhook)
        )

    def events(self, tenant: str, after: int, limit: int, now: datetime) -> EventPage:
        if not is_storable(tenant):
            return EventPage((), after)
        params = {
            "of_tenant": tenant,
            "after": after,
            "latest": _latest(now),
            "at_most": limit,
        }

        def read(connection: sa.Connection) -> EventPage:
            page = [Event(*row) for row in connection.execute(PAGE, params)]
            found = with_refunds(connection, self._macs, page)
            # A false event must neither stop the reader nor lead it past events that
            # are being sequenced now.
            read = (
                event.sequence or 0
                for event in page
                if event.id in found or (event.sequence or 0) < settled
            )
            events_ = [found[event.id] for event in page if event.id in found]
            return EventPage(events_, max(read, default=after))

        settled = sequence_at(now - _SETTLED)
        return self._database.run(read)

    def prune_events(self, before: datetime, after: int, limit: int) -> Pruned | None:
        params = {
            "before": before,
            "before_sequence": sequence_at(before),
            "after": after,
            "at_most": limit,
        }

        def work(connection: sa.Connection) -> Pruned | None:
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


def _sequence(
    connection: sa.Connection,
    macs: RowMACs,
    limit: int,
    now: datetime,
    has_webhook: Callable[[Event], bool],
) -> Sequenced | None:
    if connection.dialect.name == POSTGRESQL and not (
        connection.execute(_TRY_TO_SEQUENCE, {"lock": SEQUENCING_LOCK}).scalar()
    ):
        return None
    rows = connection.execute(NEW, {"at_most": limit})
    found = [from_row(Event, row) for row in rows]
    authentic = [each for each in found if macs.is_valid(each.mac, each)]
    last = connection.execute(LAST, {"latest": _latest(now)}).scalar() or 0
    # The numbers rise with the time: after a restore they are above all numbers that
    # readers have seen, and they do not show how many events other tenants have.
    first = max(last + 1, sequence_at(now))
    places = dict.fromkeys((event.id for event in found), _FORGED)
    places |= {event.id: first + n for n, event in enumerate(authentic)}
    if places:
        new = [{"events_id": id_, "events_sequence": n} for id_, n in places.items()]
        execute(connection, _SEQUENCE, new)
    notified = [(each, places[each.id]) for each in authentic if has_webhook(each)]
    insert_deliveries(connection, notified, now)
    forged = [id_ for id_, place in places.items() if place == _FORGED]
    return Sequenced(len(found), forged)


def _latest(now: datetime) -> int:
    return sequence_at(now + _FUTURE)
