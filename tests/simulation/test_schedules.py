"""
Two hundred schedules; `make soak` plays 70,000 (G25).

A seed is all that a schedule depends on.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import pytest

from tests.simulation.ledger import Ledger, open_ledger
from tests.simulation.plan import RESTORED, SHORT, VAULT_RESTORED, WITH_VAULT
from tests.simulation.schedule import play


_BATCH = 50


def _complaints(
    seeds: Sequence[int], option: str, changes: dict[str, Any]
) -> list[str]:
    """
    Return the violations of each seed, with the command that replays it.

    *option* is the option of that command for *changes* of the plan.
    """
    with open_ledger() as ledger:
        return [
            f"seed {seed}: {each}  (replay: python -m tests.simulation {seed}{option})"
            for seed in seeds
            for each in play(seed, ledger, **changes).violations
        ]


@pytest.mark.parametrize(
    ("seeds", "option", "changes"),
    [
        *((range(first, first + 25), "", {}) for first in range(0, 100, 25)),
        (range(25), " --short-restore", SHORT),
        (range(25, 50), " --short-restore", SHORT),
        (range(30), " --vault", WITH_VAULT),
        (range(100, 120), " --vault-restore", VAULT_RESTORED),
    ],
)
def test_no_schedule_breaks_an_invariant(
    seeds: Sequence[int], option: str, changes: dict[str, Any]
) -> None:
    """
    I1 to I7 hold and every refund ends, for any order of deaths and delays.

    No refund is paid twice after a restore, with the log or a mark (R24).  Payments of
    a batch end each on its own, also in a batch that the ledger has lost.
    """
    assert _complaints(seeds, option, changes) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("seeds", "option", "changes"),
    [
        (range(1_000_000, 1_050_000), "", {}),
        (range(2_000_000, 2_010_000), " --restore", RESTORED),
        (range(3_000_000, 3_010_000), " --vault", WITH_VAULT),
    ],
)
def test_no_schedule_of_many_breaks_an_invariant(
    seeds: Sequence[int], option: str, changes: dict[str, Any]
) -> None:
    """I1 to I7 hold in schedules that no other test plays, after restores too (R24)."""
    spawned = multiprocessing.get_context("spawn")
    batches = [seeds[each : each + _BATCH] for each in range(0, len(seeds), _BATCH)]
    complain = partial(_complaints, option=option, changes=changes)
    with ProcessPoolExecutor(mp_context=spawned) as pool:
        assert list(chain.from_iterable(pool.map(complain, batches))) == []


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


def test_a_seed_replays_exactly_after_another(ledger: Ledger) -> None:
    """With a trace and without one; another seed is another schedule."""
    first = play(100, ledger, traced=True)
    other = play(101, ledger, traced=True)
    alone, third = play(100, ledger), play(100, ledger, traced=True)

    assert first.lines == third.lines != other.lines
    assert len(first.lines) > 100
    assert alone.evidence.rows == first.evidence.rows
    assert alone.evidence.history == first.evidence.history
    assert alone.seconds == first.seconds
