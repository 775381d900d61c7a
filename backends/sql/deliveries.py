"""The deliveries of events to webhooks: claimed, recorded, listed and replayed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from backends.sql.advisory_locks import share_events
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.refund_rows import REFUNDS, read_refunds
from backends.sql.tables import events, refunds, webhook_deliveries
from backends.sql.validation import is_storable
from signer.model.event import NOT_AUTHENTIC, Delivery, DeliveryState, Event
from signer.model.refund import Refund
from signer.ports.event_store import (
    ALL_DELIVERIES,
    Backlog,
    DeliveryAttempt,
    DeliveryFilter,
    DueDelivery,
)
from signer.row_macs import RowMACs


_BY_ID = sa.select(events).where(
    events.c.id.in_(sa.bindparam("ids", type_=events.c.id.type, expanding=True))
)

_REFUNDS = REFUNDS.where(
    refunds.c.id.in_(sa.bindparam("ids", type_=refunds.c.id.type, expanding=True))
)


def find_events(
    connection: sa.Connection, macs: RowMACs, ids: Collection[str]
) -> Mapping[str, tuple[Event, Refund]]:
    """Return by id the authentic events, each with its authentic refund."""
    if not ids:
        return {}
    rows = connection.execute(_BY_ID, {"ids": sorted(ids)})
    return with_refunds(connection, macs, [Event(*row) for row in rows])


def with_refunds(
    connection: sa.Connection, macs: RowMACs, found: Sequence[Event]
) -> Mapping[str, tuple[Event, Refund]]:
    """Return by id the authentic events of *found*, each with its authentic refund."""
    authentic = [each for each in found if macs.is_valid(each.mac, each)]
    if not authentic:
        return {}
    ids = sorted({event.refund_id for event in authentic})
    rows = read_refunds(connection.execute(_REFUNDS, {"ids": ids}))
    refunds_ = {row.id: row for row in rows if macs.is_valid(row.mac, row)}
    return {
        event.id: (event, refund)
        for event in authentic
        if (refund := refunds_.get(event.refund_id)) and event.is_about(refund)
    }


_row = webhook_deliveries.c

# Literal text, so that both databases use the partial indexes.
_IS_PENDING = "state = 'pending'"
_IS_DEAD = "state = 'dead'"

_now = sa.bindparam("now", type_=UTCDateTime)

DUE_TENANTS = (
    sa.select(_row.tenant).where(sa.text(_IS_PENDING), _row.due_at <= _now).distinct()
)

_LATEST_DUE = (
    sa.select(_row.refund_id, sa.func.max(_row.due_at))
    .where(
        sa.text(_IS_PENDING),
        _row.attempts > 0,
        _row.refund_id.in_(
            sa.bindparam("refund_ids", type_=_row.refund_id.type, expanding=True)
        ),
    )
    .group_by(_row.refund_id)
)


def _claim() -> ReturningUpdate[Any]:
    """Return the statement that claims the first pending deliveries of refunds."""
    earlier = webhook_deliveries.alias("earlier")
    is_blocked = sa.exists().where(
        earlier.c.refund_id == _row.refund_id,
        earlier.c.sequence < _row.sequence,
        sa.text("earlier.state = 'pending'"),
    )
    due = (
        sa.select(_row.event_id)
        .where(
            sa.text(f"webhook_deliveries.{_IS_PENDING}"),
            _row.tenant == sa.bindparam("of_tenant"),
            _row.due_at <= _now,
            ~is_blocked,
        )
        .order_by(_row.due_at, _row.sequence)
        .limit(sa.bindparam("at_most"))
        .with_for_update(skip_locked=True, of=webhook_deliveries)
        .cte("due")
    )
    return (
        sa.update(webhook_deliveries)
        .where(_row.event_id.in_(sa.select(due.c.event_id)))
        .values(
            version=_row.version + 1, due_at=sa.bindparam("until", type_=UTCDateTime)
        )
        .returning(*_row)
    )


CLAIM = _claim()

_RECORD = (
    sa.update(webhook_deliveries)
    .where(
        _row.event_id == sa.bindparam("of_event"),
        _row.version == sa.bindparam("before"),
    )
    .values(
        state=sa.bindparam("new_state", type_=_row.state.type),
        attempts=_row.attempts + 1,
        due_at=sa.bindparam("until", type_=UTCDateTime),
        problem=sa.bindparam("new_problem"),
        updated_at=_now,
        version=_row.version + 1,
    )
)

# The later deliveries of a refund wait for its first one.
_FOLLOW = (
    sa.update(webhook_deliveries)
    .where(
        _row.refund_id == sa.bindparam("of_refund"),
        sa.text(_IS_PENDING),
        _row.sequence > sa.bindparam("of_sequence"),
    )
    .values(due_at=sa.bindparam("until", type_=UTCDateTime))
)

_DUE_AGAIN: dict[Any, Any] = {
    _row.state: DeliveryState.PENDING,
    _row.attempts: 0,
    _row.due_at: _now,
    _row.problem: None,
    _row.updated_at: _now,
    _row.version: _row.version + 1,
}

_REPLAY = (
    sa.update(webhook_deliveries)
    .where(_row.event_id == sa.bindparam("of_event"))
    .values(_DUE_AGAIN)
)


def _unindexed(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """
    Return *column* as an expression for which no index is used.

    Few deliveries are given up: their own index is better than one of all deliveries
    of a tenant, which SQLite would choose.
    """
    return column + sa.literal_column("''")


_dead = webhook_deliveries.alias("given_up")

# One that is not authentic would end as before, and be replayed for ever.
_OLDEST_DEAD = (
    sa.select(_dead.c.event_id)
    .where(
        sa.text(f"given_up.{_IS_DEAD}"),
        _unindexed(_dead.c.tenant) == sa.bindparam("of_tenant"),
        sa.func.coalesce(_dead.c.problem, "") != NOT_AUTHENTIC,
    )
    .order_by(_dead.c.sequence)
    .limit(sa.bindparam("at_most"))
)

REPLAY_DEAD = (
    sa.update(webhook_deliveries)
    .where(_row.state == DeliveryState.DEAD, _row.event_id.in_(_OLDEST_DEAD))
    .values(_DUE_AGAIN)
)

_ONE = sa.select(webhook_deliveries).where(_row.event_id == sa.bindparam("of_event"))


def newest(wanted: DeliveryFilter, *, has_before: bool = False) -> sa.Select[Any]:
    """Return the statement that selects deliveries, newest first."""
    query = sa.select(webhook_deliveries).order_by(_row.sequence.desc())
    if wanted.tenant is not None:
        is_dead = wanted.state is DeliveryState.DEAD
        column = _unindexed(_row.tenant) if is_dead else _row.tenant
        query = query.where(column == sa.bindparam("of_tenant"))
    if wanted.refund_id is not None:
        query = query.where(_row.refund_id == sa.bindparam("of_refund"))
    if wanted.state is not None:
        query = query.where(sa.text(f"state = '{wanted.state}'"))
    if has_before:
        query = query.where(_row.sequence < sa.bindparam("before"))
    return query.limit(sa.bindparam("at_most"))


_is_pending = _row.state == DeliveryState.PENDING

BACKLOG = (
    sa.select(
        _row.tenant,
        sa.func.count(sa.case((_is_pending, 1))),
        sa.func.count(sa.case((_is_pending & (_row.attempts > 0), 1))),
        sa.func.count(sa.case((_row.state == DeliveryState.DEAD, 1))),
        sa.func.min(sa.case((_is_pending, _row.updated_at))),
    )
    .where(sa.text("state IN ('dead', 'pending')"))
    .group_by(_row.tenant)
    .order_by(_row.tenant)
)


class DeliveryTables(Tables):
    """The deliveries of ``signer.ports.event_store.EventStore``."""

    def claim_deliveries(
        self, free: Mapping[str, int], limit: int, now: datetime, until: datetime
    ) -> Sequence[DueDelivery]:
        tenants = {row.tenant for row in self._database.rows(DUE_TENANTS, now=now)}
        claimed: list[Delivery] = []
        for tenant, count in free.items():
            left = limit - len(claimed)
            if tenant in tenants and left > 0:
                claimed += self._claim(tenant, min(count, left), now, until)
        found = self._find_events(claimed)
        return [
            DueDelivery(each, *found.get(each.event_id, (None, None)))
            for each in claimed
        ]

    def record_attempts(
        self, attempts: Sequence[DeliveryAttempt], now: datetime
    ) -> None:
        def work(connection: sa.Connection) -> None:
            for each in attempts:
                params = {
                    "of_event": each.delivery.event_id,
                    "before": each.delivery.version,
                    "new_state": each.state,
                    "until": each.due_at,
                    "new_problem": each.problem,
                    "now": now,
                }
                if connection.execute(_RECORD, params).rowcount != 1:
                    continue
                followed = {
                    "of_refund": each.delivery.refund_id,
                    "of_sequence": each.delivery.sequence,
                    "until": each.due_at,
                }
                connection.execute(_FOLLOW, followed)

        if attempts:
            self._database.transaction(work)

    def deliveries(
        self,
        limit: int,
        wanted: DeliveryFilter = ALL_DELIVERIES,
        *,
        before: int | None = None,
    ) -> Sequence[tuple[Delivery, Event | None]]:
        given = {
            "of_tenant": wanted.tenant,
            "of_refund": wanted.refund_id,
            "before": before,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        if not all(is_storable(str(value)) for value in chosen.values()):
            return []
        query = newest(wanted, has_before=before is not None)
        return self._with_events(query, at_most=limit, **chosen)

    def find_delivery(self, event_id: str) -> tuple[Delivery, Event | None] | None:
        if not is_storable(event_id):
            return None
        return next(iter(self._with_events(_ONE, of_event=event_id)), None)

    def replay_deliveries(
        self,
        event_ids: Collection[str],
        now: datetime,
        has_webhook: Callable[[Event], bool],
    ) -> Sequence[str]:
        ids = [each for each in dict.fromkeys(event_ids) if is_storable(each)]
        # One after the other: a worker locks the rows of a refund in another order.
        return [each for each in ids if self._replay(each, now, has_webhook)]

    def replay_dead(self, tenant: str, limit: int, now: datetime) -> int:
        if not is_storable(tenant):
            return 0
        params = {"of_tenant": tenant, "at_most": limit, "now": now}
        count: int = self._database.write(
            lambda c: c.execute(REPLAY_DEAD, params).rowcount
        )
        return count

    def webhook_backlog(self) -> Sequence[Backlog]:
        return tuple(Backlog(*row) for row in self._database.rows(BACKLOG))

    def _claim(
        self, tenant: str, count: int, now: datetime, until: datetime
    ) -> Sequence[Delivery]:
        params = {"of_tenant": tenant, "at_most": count, "now": now, "until": until}
        rows = self._database.write(lambda c: c.execute(CLAIM, params).all())
        return sorted((Delivery(*row) for row in rows), key=attrgetter("sequence"))

    def _replay(
        self, id_: str, now: datetime, has_webhook: Callable[[Event], bool]
    ) -> bool:
        def work(connection: sa.Connection) -> bool:
            # Or a deleted event could get a delivery.
            share_events(connection)
            found = find_events(connection, self._macs, [id_])
            event = found[id_][0] if found else None
            if event is None or not has_webhook(event) or not event.sequence:
                return False
            params = {"of_event": id_, "now": now}
            if not connection.execute(_REPLAY, params).rowcount:
                insert_deliveries(connection, [(event, event.sequence)], now)
            return True

        return self._database.transaction(work)

    def _with_events(
        self, query: sa.Executable, **params: Any
    ) -> Sequence[tuple[Delivery, Event | None]]:
        rows = [Delivery(*row) for row in self._database.rows(query, **params)]
        found = self._find_events(rows)
        return [(each, found.get(each.event_id, (None,))[0]) for each in rows]

    def _find_events(
        self, rows: Sequence[Delivery]
    ) -> Mapping[str, tuple[Event, Refund]]:
        ids = [each.event_id for each in rows]
        tenants = {each.event_id: each.tenant for each in rows}
        found = self._database.run(lambda c: find_events(c, self._macs, ids))
        # A changed row must not send an event to the webhook of another tenant.
        return {
            id_: (event, refund)
            for id_, (event, refund) in found.items()
            if event.tenant == tenants[id_]
        }


def insert_deliveries(
    connection: sa.Connection, given: Sequence[tuple[Event, int]], now: datetime
) -> None:
    """Insert a delivery of each event, with its sequence number, due at *now*."""
    if not given:
        return
    ids = sorted({event.refund_id for event, _ in given})
    # Not before the earlier ones of the refund, which may wait for long.
    found = connection.execute(_LATEST_DUE, {"refund_ids": ids})
    waits: dict[str, datetime] = {row[0]: row[1] for row in found}
    rows = [
        Delivery(
            event.id,
            event.tenant,
            event.refund_id,
            sequence,
            DeliveryState.PENDING,
            attempts=0,
            due_at=max(now, waits.get(event.refund_id, now)),
            problem=None,
            updated_at=now,
            version=0,
        )
        for event, sequence in given
    ]
    connection.execute(sa.insert(webhook_deliveries), [asdict(row) for row in rows])
