"""Which changes of refunds are events."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from signer.model.event import Event, new_event_id
from signer.model.refund import Refund, Status
from tests.fixtures.ledger import (
    adopted,
    as_if,
    bound,
    now,
    queued,
    status_moves,
)
from tests.support.ledgers import ROW_MACS


def _after(before: Refund, status: Status) -> Refund:
    return as_if(before, status=status, version=before.version + 1)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.AWAITING_APPROVAL])
def test_an_acceptance_is_an_event(status: Status) -> None:
    """It has only the columns that the role which accepts refunds may set."""
    refund = as_if(queued(), status=status)
    event = Event.of(None, refund)

    assert event == Event(
        event.id if event else "", "gateway", refund.id, 0, status, refund.updated_at
    )


def test_moves_that_are_events() -> None:
    """Steps in between, and a reorganisation, are none."""
    pairs = {(old, new) for old, moves in status_moves().items() for new in moves}
    found = {
        (old, new)
        for old, new in pairs
        if Event.of(as_if(queued(), status=old), _after(queued(), new))
    }

    assert pairs - found == {
        (old, new)
        for old, new in pairs
        if new in {Status.RESERVED, Status.SIGNED, Status.MINED}
        or (old, new) == (Status.MINED, Status.BROADCAST)
    }


def test_a_delay_is_no_event() -> None:
    refund = queued()

    assert Event.of(refund, _after(refund, refund.status)) is None


@pytest.mark.parametrize("own", [bound()], ids=["sweep"])
def test_the_services_own_rows_have_none(own: dict[str, Any]) -> None:
    assert Event.of(None, queued(**own)) is None


def test_the_refund_as_it_was() -> None:
    """The event keeps what changes, and the refund's row what does not."""
    refund = adopted(queued(), 3)
    failed = as_if(
        refund, status=Status.FAILED, failure_code="reverted", failure_detail="a\0b"
    )
    event = Event.of(refund, failed)
    assert event is not None
    asked = replace(failed, cancel_requested_at=event.at + timedelta(seconds=1))

    assert event.failure_detail == "a\ufffdb"
    assert event.is_about(failed)
    assert not event.is_about(replace(failed, tenant="shop"))
    then = event.refund_then(asked)
    assert replace(then, transaction=None) == replace(
        failed, failure_detail="a\ufffdb", transaction=None
    )
    assert (then.status, then.tx_hash, then.block_number) == (
        Status.FAILED,
        failed.tx_hash,
        failed.block_number,
    )
    before = replace(failed, cancel_requested_at=event.at)
    assert event.refund_then(before).cancel_requested_at == event.at


def test_ids_sort_by_time() -> None:
    assert new_event_id(now()) < new_event_id(now() + timedelta(seconds=1))


def test_the_mac_covers_what_is_said() -> None:
    """Only the place in the order may change without a new MAC."""
    event = Event.of(None, queued())
    assert event is not None
    mac = ROW_MACS.compute(event)

    assert ROW_MACS.is_valid(mac, replace(event, sequence=7))
    assert not ROW_MACS.is_valid(mac, replace(event, tenant="shop"))
    assert not ROW_MACS.is_valid(mac, replace(event, status=Status.CONFIRMED))
    assert not ROW_MACS.is_valid(mac, replace(event, tx_hash="0x1"))
