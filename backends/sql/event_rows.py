"""Events with their refunds, as far as this service wrote both."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, bindparam, select

from backends.sql.schema import events, refunds
from signer.model.event import Event
from signer.model.refund import Refund
from signer.row_macs import RowMACs


_BY_ID = select(events).where(
    events.c.id.in_(bindparam("ids", type_=events.c.id.type, expanding=True))
)

_REFUNDS = select(refunds).where(
    refunds.c.id.in_(bindparam("ids", type_=refunds.c.id.type, expanding=True))
)


def find_events(
    connection: Connection, macs: RowMACs, ids: Collection[str]
) -> Mapping[str, tuple[Event, Refund]]:
    """Return by id the authentic events, each with its authentic refund."""
    if not ids:
        return {}
    rows = connection.execute(_BY_ID, {"ids": sorted(ids)})
    return with_refunds(connection, macs, [Event(*row) for row in rows])


def with_refunds(
    connection: Connection, macs: RowMACs, found: Sequence[Event]
) -> Mapping[str, tuple[Event, Refund]]:
    """Return by id the authentic events of *found*, each with its authentic refund."""
    authentic = [each for each in found if macs.is_valid(each.mac, each)]
    if not authentic:
        return {}
    ids = sorted({event.refund_id for event in authentic})
    rows = (Refund(*row) for row in connection.execute(_REFUNDS, {"ids": ids}))
    refunds_ = {row.id: row for row in rows if macs.is_valid(row.mac, row)}
    return {
        event.id: (event, refund)
        for event in authentic
        if (refund := refunds_.get(event.refund_id)) and event.is_about(refund)
    }
