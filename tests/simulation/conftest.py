"""What the tests of the simulation share: a ledger that each schedule blanks."""

from collections.abc import Iterator

import pytest

from tests.simulation.ledger import Ledger
from tests.simulation.ledger import ledger as opened


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """Return a ledger in memory."""
    with opened() as made:
        yield made
