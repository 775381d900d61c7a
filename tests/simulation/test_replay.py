"""A schedule depends on nothing but its seed."""

import os
import subprocess
import sys

import pytest

from tests.simulation.ledger import Ledger
from tests.simulation.schedule import play


def _printed(seed: int, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", str(seed), "--restore"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_seed_replays_exactly_in_another_process() -> None:
    """The printed trace is the same for any order of sets, such as one of wallets."""
    first = _printed(908, "1")

    assert first == _printed(908, "3")
    assert first.count("\n") > 100


@pytest.mark.parametrize("seed", range(100, 104))
def test_a_seed_replays_exactly_after_another(ledger: Ledger, seed: int) -> None:
    """Two runs on one ledger leave the same trace, the first one and the third."""
    first = play(seed, ledger, traced=True)
    play(seed + 1, ledger)
    third = play(seed, ledger, traced=True)

    assert first.lines == third.lines
    assert len(first.lines) > 100


def test_a_trace_changes_nothing(ledger: Ledger) -> None:
    """A schedule with a trace has the same result as one without."""
    watched = play(7, ledger, traced=True)
    alone = play(7, ledger)

    assert alone.evidence.rows == watched.evidence.rows
    assert alone.evidence.history == watched.evidence.history
    assert alone.seconds == watched.seconds


def test_other_seeds_are_other_schedules(ledger: Ledger) -> None:
    """Neighbouring seeds have nothing in common but the code."""
    traces = {play(seed, ledger, traced=True).lines for seed in range(20, 23)}

    assert len(traces) == 3
