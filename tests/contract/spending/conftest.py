"""Stores whose databases have a clock that the test sets."""

from collections.abc import Iterator

import pytest

from backends.sql import SQLStore
from tests.fixtures.stores import closed_after
from tests.support.ledgers import open_ledger
from tests.support.refunds import NOON, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Return the clock of the database; it is noon."""
    clock = FakeClock()
    clock.now = NOON
    return clock


@pytest.fixture
def store(database_url: str, clock: FakeClock) -> Iterator[SQLStore]:
    """Return a store on each database in turn."""
    yield from closed_after(open_ledger(database_url, clock=clock))
