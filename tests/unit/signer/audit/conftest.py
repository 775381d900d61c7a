"""An empty journal, and a clock that tests set."""

from collections.abc import Iterator

import pytest

from backends.sql.audit import AuditTables
from backends.sql.database import Database
from tests.support.audit import START
from tests.support.ledgers import ROW_MACS
from tests.support.refunds import FakeClock


@pytest.fixture
def journal(sqlite_url: str) -> Iterator[AuditTables]:
    """Return an empty journal."""
    database = Database(sqlite_url, pool_size=2, timeout=5.0)
    yield AuditTables(database, ROW_MACS)
    database.close()


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock at the time of the tests' records."""
    clock = FakeClock()
    clock.now = START
    return clock
