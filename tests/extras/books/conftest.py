"""The fixtures of a service in one process, and of a shop with its ledger."""

import pytest

from backends.sql import SQLStore
from tests.extras.books.paid_books import Books
from tests.support.audit import overruled
from tests.unit.signer.conftest import clock, empty, opened


__all__ = ["clock", "empty", "opened"]


@pytest.fixture
def books(sqlite_url: str, sqlite_store: SQLStore) -> Books:
    """Return a shop that has paid nothing; its ledger has no triggers."""
    overruled(sqlite_url)
    return Books(sqlite_store)
