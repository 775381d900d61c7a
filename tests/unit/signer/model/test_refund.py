"""The refund's states, and the moves between them."""

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
    """The picture of docs/explanation/refunds.md, line by line."""
    assert {(str(a), str(b)) for a in MOVES for b in MOVES[a]} == {
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


@pytest.mark.parametrize(("before", "after"), list(product(Status, Status)))
def test_a_refund_moves_along_these_only(before: Status, after: Status) -> None:
    """A legal move counts the version up; another one is a programming error."""
    refund = replace(_refund(before), attempts=3, blocked_by="chain-unavailable")

    if after in MOVES[before]:
        moved = refund.moved(after, NOW, tx_hash="0x1")

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
            refund.moved(after, NOW)


def test_final_is_what_nothing_leads_out_of() -> None:
    """Four states are final, the others are what workers look for."""
    final = {status for status in Status if status.is_final}

    assert final == {
        Status.CONFIRMED,
        Status.REFUSED,
        Status.CANCELLED,
        Status.FAILED,
    }
    assert set(Status) - final == OPEN
    assert UNSENT | IN_FLIGHT == OPEN
    assert not UNSENT & IN_FLIGHT


def test_a_postponed_refund_has_not_moved() -> None:
    """Only when it is due, and why, is changed, under the next version."""
    refund = _refund(Status.SIGNED)

    later = refund.postponed(NOW, attempts=2, blocked_by="chain-unavailable")

    assert later == replace(
        refund, version=1, due_at=NOW, attempts=2, blocked_by="chain-unavailable"
    )


def test_a_move_may_say_when_it_is_due() -> None:
    """A refund that is sent is looked at later than one that is held."""
    assert _refund(Status.QUEUED).moved(Status.RESERVED, NOW, due_at=NOW).due_at == NOW


@pytest.mark.parametrize("field", ["sender", "nonce", "gas_limit"])
def test_half_a_reservation_is_none(field: str) -> None:
    """Payer, nonce and gas are given together, or something is very wrong."""
    given: dict[str, Any] = {"sender": "0x", "nonce": 7, "gas_limit": 60_000}
    reserved = replace(queued(), **given)

    with pytest.raises(ValueError, match="not reserved"):
        replace(queued(), **{**given, field: None}).reservation()
    assert reserved.reservation() == ("0x", 7, 60_000)


def test_a_refund_does_not_change() -> None:
    """A refund is a value; a move makes a new one."""
    refund = _refund(Status.QUEUED)

    with pytest.raises(FrozenInstanceError):
        refund.amount = 1  # type: ignore[misc]  # That is what is tested.


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    """An id is rf_, 12 digits of milliseconds, and 80 random bits."""
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
def test_other_texts_are_no_ids(text: str) -> None:
    """Only what new_refund_id returns looks like it."""
    assert not is_refund_id(text)
