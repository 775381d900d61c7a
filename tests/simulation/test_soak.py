"""Fifty thousand schedules, for the night before a release."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

import pytest

from tests.simulation.batch import BATCH, complaints_of_batch


@pytest.mark.soak
def test_no_schedule_of_many_breaks_an_invariant() -> None:
    """I1 to I7 hold in 50,000 schedules that no other run has played."""
    firsts = range(1_000_000, 1_050_000, BATCH)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=spawned) as pool:
        found = list(chain.from_iterable(pool.map(complaints_of_batch, firsts)))

    assert found == []
