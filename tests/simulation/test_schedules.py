"""Thousands of schedules (G25)."""

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

import pytest

from tests.simulation.ledger import Ledger, open_ledger
from tests.simulation.schedule import play


_BATCH = 50


def _complaints(seeds: Iterable[int], ledger: Ledger) -> list[str]:
    """Return the violations of each seed, with the command that replays it."""
    return [
        f"seed {seed}: {violation}  (replay: python -m tests.simulation {seed})"
        for seed in seeds
        for violation in play(seed, ledger).violations
    ]


def _complaints_of_batch(first: int) -> list[str]:
    with open_ledger() as ledger:
        return _complaints(range(first, first + _BATCH), ledger)


@pytest.mark.parametrize("first", range(0, 2_000, _BATCH))
def test_no_schedule_breaks_an_invariant(ledger: Ledger, first: int) -> None:
    """I1 to I7 hold and every refund ends, for any order of deaths and delays."""
    assert _complaints(range(first, first + _BATCH), ledger) == []


@pytest.mark.soak
def test_no_schedule_of_many_breaks_an_invariant() -> None:
    """I1 to I7 hold in 50,000 schedules that no other test plays."""
    firsts = range(1_000_000, 1_050_000, _BATCH)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=spawned) as pool:
        found = list(chain.from_iterable(pool.map(_complaints_of_batch, firsts)))

    assert found == []
