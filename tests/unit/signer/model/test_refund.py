"""Statuses of a refund, legal moves and ids."""

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any

import pytest

from signer.model.refund import (
    HOLD,
    IN_FLIGHT,
    MOVES,
    OPEN,
    UNSENT,
    Refund,
    Status,
    is_refund_id,
    new_refund_id,
)
from tests.fixtures.ledger import queued


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _refund(status: Status) -> Refund:
    return replace(queued(), status=status)


def test_the_legal_moves() -> None:
    """They are those of the diagram in docs/explanation/refunds.md."""
    assert {(str(a), str(b)) for a in MOVES for b in MOVES[a]} == {
        ("awaiting-approval", "queued"),
        ("awaiting-approval", "mined"),
        ("awaiting-approval", "refused"),
        ("awaiting-approval", "cancelled"),
        ("queued", "awaiting-approval"),
        ("queued", "reserved"),
        ("queued", "mined"),
        ("queued", "refused"),
        ("queued", "cancelled"),
        ("reserved", "signed"),
        ("reserved", "mined"),
        ("reserved", "failed"),
        ("signed", "broadcast"),
        ("broadcast", "signed"),
        ("broadcast", "mined"),
        ("broadcast", "failed"),
        ("mined", "broadcast"),
        ("mined", "confirmed"),
        ("mined", "failed"),
    }


def test_the_mark_is_that_of_earlier_releases() -> None:
    """A payment that an earlier release made is recognised on the chain (0010)."""
    refund = queued(tenant="gateway-1", chain_id=1, reference="refund-1")

    assert refund.mark.hex() == "63c407e3c7e8e68cd4646cd851261853"


@pytest.mark.parametrize(("before", "after"), list(product(Status, Status)))
def test_only_legal_moves_are_possible(before: Status, after: Status) -> None:
    """A legal move increases the version; another one raises ValueError."""
    refund = replace(_refund(before), attempts=3, blocked_by="chain-unavailable")

    if after in MOVES[before]:
        moved = refund.with_status(after, NOW, tx_hash="0x1")

        assert moved == replace(
            refund,
            status=after,
            updated_at=NOW,
            version=1,
            tx_hash="0x1",
            due_at=NOW + HOLD,
            attempts=0,
            blocked_by=None,
        )
    else:
        with pytest.raises(ValueError, match=f"from {before} to {after}"):
            refund.with_status(after, NOW)


def test_final_statuses_have_no_moves() -> None:
    final = {status for status in Status if status.is_final}

    assert final == {Status.CONFIRMED, Status.REFUSED, Status.CANCELLED, Status.FAILED}
    assert set(Status) - final == OPEN
    assert UNSENT | IN_FLIGHT | {Status.AWAITING_APPROVAL} == OPEN
    assert not UNSENT & IN_FLIGHT


def test_with_due_at_keeps_the_status() -> None:
    """Only the due date, its reason and the version change."""
    refund = _refund(Status.SIGNED)

    later = refund.with_due_at(NOW, attempts=2, blocked_by="chain-unavailable")

    assert later == replace(
        refund, version=1, due_at=NOW, attempts=2, blocked_by="chain-unavailable"
    )


def test_a_move_may_set_the_due_date() -> None:
    """By default the refund stays claimed for ``HOLD``."""
    assert (
        _refund(Status.QUEUED).with_status(Status.RESERVED, NOW, due_at=NOW).due_at
        == NOW
    )


@pytest.mark.parametrize("field", ["sender", "nonce", "gas_limit"])
def test_a_partial_reservation_is_an_error(field: str) -> None:
    """Sender, nonce and gas limit are set together."""
    given: dict[str, Any] = {"sender": "0x", "nonce": 7, "gas_limit": 60_000}
    reserved = replace(queued(), **given)

    with pytest.raises(ValueError, match="not reserved"):
        replace(queued(), **{**given, field: None}).reservation()
    assert reserved.reservation() == ("0x", 7, 60_000)


def test_a_refund_is_immutable() -> None:
    refund = _refund(Status.QUEUED)

    with pytest.raises(FrozenInstanceError):
        refund.amount = 1  # type: ignore[misc]  # That is what is tested.


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    """An id is rf_, 12 hex digits of milliseconds, and 80 random bits."""
    later = [NOW + timedelta(milliseconds=number) for number in range(100)]

    ids = [new_refund_id(at) for at in later]

    assert all(before < after for before, after in pairwise(ids))
    assert {len(id_) for id_ in ids} == {35}
    assert len({new_refund_id(NOW) for _ in range(1_000)}) == 1_000
    assert all(is_refund_id(id_) for id_ in ids)
    assert ids[0][3:15] == f"{int(NOW.timestamp() * 1000):012x}"


@pytest.mark.parametrize(
    "text", ["", "rf_", "rf_" + "0" * 31, "rf_" + "0" * 33, "rf_" + "G" * 32, "0" * 35]
)
def test_other_texts_are_not_ids(text: str) -> None:
    """Only the format of ``new_refund_id`` is an id."""
    assert not is_refund_id(text)
