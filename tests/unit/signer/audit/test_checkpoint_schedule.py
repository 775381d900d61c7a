"""When a checkpoint is due, and how much may be without one."""

from datetime import timedelta

import pytest

from signer.audit.checkpoint_schedule import EVERY, MOST, PATIENCE, SETUP, Tail
from signer.model.audit_record import Record
from tests.support.audit import START, record


LATE = EVERY + PATIENCE
SECOND = timedelta(seconds=1)


def _tail(*after: timedelta, signed_at: bool = True) -> Tail:
    """Return a tail with a record at each of these times after its checkpoint."""
    tail = Tail(7, START) if signed_at else Tail()
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
        ((timedelta(days=7), timedelta(days=7) + PATIENCE), False),
        ((timedelta(days=7), timedelta(days=7) + LATE), True),
        ((-timedelta(days=7), SECOND), False),
        ((-timedelta(days=7), LATE + SECOND), True),
    ],
)
def test_how_long_records_may_go_on(
    after: tuple[timedelta, ...], expected: bool
) -> None:
    """Two minutes after one was due, which is a minute after the last one, or later."""
    assert _tail(*after).unsigned().is_overdue is expected


def test_how_many_there_may_be() -> None:
    """However close together they are, so many without a checkpoint are too many."""
    tail = _tail(*[SECOND] * MOST)
    enough = tail.unsigned()
    tail.add(record(at=START))
    too_many = tail.unsigned()

    assert (enough.first, enough.records, enough.is_overdue) == (8, MOST, False)
    assert (too_many.records, too_many.is_overdue) == (MOST + 1, True)


@pytest.mark.parametrize("name", ["x", "au_" + "f" * 32])
def test_a_name_that_holds_no_time(name: str) -> None:
    """A record whose name is none of ours is no excuse, whichever of them it is."""
    first, last = _tail(), _tail(SECOND)
    first.add(Record(name, "{}"))
    last.add(Record(name, "{}"))

    assert first.unsigned().is_overdue
    assert last.unsigned().is_overdue


def test_before_the_first_checkpoint() -> None:
    """Who sets a system up has an hour, and a name without a time has none."""
    soon = _tail(SECOND, SECOND + SETUP, signed_at=False)
    late = _tail(SECOND, SECOND * 2 + SETUP + EVERY, signed_at=False)
    nameless = Tail()
    nameless.add(Record("x", "{}"))

    assert not soon.unsigned().is_overdue
    assert late.unsigned().is_overdue
    assert nameless.unsigned().is_overdue
