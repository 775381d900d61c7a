"""Schedules 500 to 999 (G25)."""

import pytest

from tests.simulation.batch import BATCH, OF_EACH_FILE, complaints
from tests.simulation.ledger import Ledger


@pytest.mark.parametrize("first", [500 + first for first in OF_EACH_FILE])
def test_no_schedule_breaks_an_invariant(ledger: Ledger, first: int) -> None:
    """Whatever dies, lags or comes twice: I1 to I7 hold, and all comes to its end."""
    assert complaints(range(first, first + BATCH), ledger) == []
