"""
Four hundred schedules; `make soak` plays thousands (G25).

``test_reach.py`` plays the first hundred, and a hundred with a restore.
"""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from typing import Any

import pytest

from tests.simulation.ledger import Ledger, open_ledger
from tests.simulation.plan import RESTORED, SHORT, VAULT_RESTORED, WITH_VAULT
from tests.simulation.schedule import play


_BATCH = 50


def _complaints(
    seeds: Iterable[int], ledger: Ledger, option: str = "", **changes: Any
) -> list[str]:
    """
    Return the violations of each seed, with the command that replays it.

    *option* is the option of that command for *changes* of the plan.
    """
    return [
        f"seed {seed}: {violation}  (replay: python -m tests.simulation {seed}{option})"
        for seed in seeds
        for violation in play(seed, ledger, **changes).violations
    ]


def _complaints_of_batch(first: int) -> list[str]:
    with open_ledger() as ledger:
        return _complaints(range(first, first + _BATCH), ledger)


def _complaints_of_restores(first: int) -> list[str]:
    with open_ledger() as ledger:
        seeds = range(first, first + _BATCH)
        return _complaints(seeds, ledger, " --restore", **RESTORED)


def _complaints_of_vaults(first: int) -> list[str]:
    with open_ledger() as ledger:
        seeds = range(first, first + _BATCH)
        return _complaints(seeds, ledger, " --vault", **WITH_VAULT)


def _search(complain: Callable[[int], list[str]], seeds: range) -> list[str]:
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=spawned) as pool:
        return list(chain.from_iterable(pool.map(complain, seeds)))


@pytest.mark.parametrize("first", range(100, 350, _BATCH))
def test_no_schedule_breaks_an_invariant(ledger: Ledger, first: int) -> None:
    """I1 to I7 hold and every refund ends, for any order of deaths and delays."""
    assert _complaints(range(first, first + _BATCH), ledger) == []


@pytest.mark.parametrize("first", range(100, 250, _BATCH))
def test_no_restore_breaks_an_invariant(ledger: Ledger, first: int) -> None:
    """No refund is paid twice after a restore, with the log or a mark (R24)."""
    seeds = range(first, first + _BATCH)

    assert _complaints(seeds, ledger, " --short-restore", **SHORT) == []


@pytest.mark.parametrize("first", [100, 150])
def test_no_schedule_with_a_vault_breaks_an_invariant(
    ledger: Ledger, first: int
) -> None:
    """Payments of a batch end each on its own, once, and as the final chain says."""
    seeds = range(first, first + _BATCH)

    assert _complaints(seeds, ledger, " --vault", **WITH_VAULT) == []


def test_no_restore_with_a_vault_breaks_an_invariant(ledger: Ledger) -> None:
    """A batch that the ledger has lost is recognised by the marks of its items."""
    seeds = range(100, 100 + _BATCH)

    assert _complaints(seeds, ledger, " --vault-restore", **VAULT_RESTORED) == []


@pytest.mark.soak
def test_no_schedule_of_many_breaks_an_invariant() -> None:
    """I1 to I7 hold in 50,000 schedules that no other test plays."""
    assert _search(_complaints_of_batch, range(1_000_000, 1_050_000, _BATCH)) == []


@pytest.mark.soak
def test_no_restore_of_many_breaks_an_invariant() -> None:
    """I1 to I7 hold after 10,000 restores that no other test plays (R24)."""
    assert _search(_complaints_of_restores, range(2_000_000, 2_010_000, _BATCH)) == []


@pytest.mark.soak
def test_no_schedule_of_many_with_a_vault_breaks_an_invariant() -> None:
    """I1 to I7 hold in 10,000 schedules with batches that no other test plays."""
    assert _search(_complaints_of_vaults, range(3_000_000, 3_010_000, _BATCH)) == []
