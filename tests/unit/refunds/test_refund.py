"""The refund's states, and the moves between them."""

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import pytest

from signer.refunds.refund import MOVES, OPEN, Refund, Status, new_refund_id
from tests.fixtures.ledger import queued


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _refund(status: Status) -> Refund:
    return replace(queued(), status=status)


def test_the_legal_moves() -> None:
    """The picture of docs/refunds.md, line by line."""
    assert {(str(a), str(b)) for a in MOVES for b in MOVES[a]} == {
        ("queued", "reserved"),
        ("queued", "refused"),
        ("queued", "cancelled"),
        ("reserved", "signed"),
        ("reserved", "failed"),
        ("signed", "broadcast"),
        ("signed", "mined"),
        ("signed", "failed"),
        ("broadcast", "broadcast"),
        ("broadcast", "mined"),
        ("broadcast", "failed"),
        ("mined", "broadcast"),
        ("mined", "confirmed"),
        ("mined", "failed"),
    }


@pytest.mark.parametrize(("before", "after"), list(product(Status, Status)))
def test_a_refund_moves_along_these_only(before: Status, after: Status) -> None:
    """A legal move counts the version up; another one is a programming error."""
    refund = _refund(before)

    if after in MOVES[before]:
        moved = refund.moved(after, NOW, tx_hash="0x1")

        assert moved == replace(
            refund, status=after, updated_at=NOW, version=1, tx_hash="0x1"
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
    assert ids[0][3:15] == f"{int(NOW.timestamp() * 1000):012x}"
