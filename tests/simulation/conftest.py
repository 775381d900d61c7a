"""The ledger that the tests of a module share; each schedule empties it."""

from collections.abc import Iterator

import pytest

from tests.simulation.ledger import Ledger, open_ledger


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """A ledger in memory."""
    with open_ledger() as opened:
        yield opened
