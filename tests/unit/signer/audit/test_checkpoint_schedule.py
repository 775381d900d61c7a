"""When a checkpoint is due, and how much may be without one."""

from datetime import timedelta

import pytest

from signer.audit.checkpointer import (
    FIRST_GRACE,
    GRACE,
    INTERVAL,
    MAX_RECORDS,
    UnsignedTail,
)
from signer.model.audit_record import Record
from tests.support.audit import START, record


LATE = INTERVAL + GRACE
SECOND = timedelta(seconds=1)


def _tail(*after: timedelta, signed_at: bool = True) -> UnsignedTail:
    """Return a tail with a record at each of these times after its checkpoint."""
    tail = UnsignedTail(7, START) if signed_at else UnsignedTail()
    for each in after:
        tail.add(record(at=START + each))
    return tail


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((), False),
        ((SECOND, LATE), False),
        ((SECOND, LATE + SECOND), True),
        ((LATE + SECOND, SECOND), True),
        ((timedelta(days=7), timedelta(days=7) + GRACE), False),
        ((timedelta(days=7), timedelta(days=7) + LATE), True),
        ((-timedelta(days=7), SECOND), False),
        ((-timedelta(days=7), LATE + SECOND), True),
    ],
)
def test_how_long_records_may_be_without_a_checkpoint(
    after: tuple[timedelta, ...], expected: bool
) -> None:
    """A checkpoint is overdue two minutes after it was due."""
    assert _tail(*after).at_newest().is_overdue is expected


def test_how_many_records_may_be_without_a_checkpoint() -> None:
    """Too many records without a checkpoint are overdue at any time."""
    tail = _tail(*[SECOND] * MAX_RECORDS)
    enough = tail.at_newest()
    tail.add(record(at=START))
    too_many = tail.at_newest()

    assert (enough.first, enough.records, enough.is_overdue) == (8, MAX_RECORDS, False)
    assert (too_many.records, too_many.is_overdue) == (MAX_RECORDS + 1, True)


@pytest.mark.parametrize("name", ["x", "au_" + "f" * 32])
def test_an_id_without_a_time_is_overdue(name: str) -> None:
    """A record with an id that we did not make counts as overdue."""
    first, last = _tail(), _tail(SECOND)
    first.add(Record(name, "{}"))
    last.add(Record(name, "{}"))

    assert first.at_newest().is_overdue
    assert last.at_newest().is_overdue


def test_before_the_first_checkpoint() -> None:
    """The first checkpoint may take an hour, except with an id that has no time."""
    soon = _tail(SECOND, SECOND + FIRST_GRACE, signed_at=False)
    late = _tail(SECOND, SECOND * 2 + FIRST_GRACE + INTERVAL, signed_at=False)
    nameless = UnsignedTail()
    nameless.add(Record("x", "{}"))

    assert not soon.at_newest().is_overdue
    assert late.at_newest().is_overdue
    assert nameless.at_newest().is_overdue
