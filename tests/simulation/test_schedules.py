"""Two thousand schedules (G25)."""

import pytest

from tests.simulation.batch import BATCH, complaints
from tests.simulation.ledger import Ledger


@pytest.mark.parametrize("first", range(0, 2_000, BATCH))
def test_no_schedule_breaks_an_invariant(ledger: Ledger, first: int) -> None:
    """I1 to I7 hold and every refund ends, for any order of deaths and delays."""
    assert complaints(range(first, first + BATCH), ledger) == []
