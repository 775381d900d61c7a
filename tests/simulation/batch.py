"""Many schedules in a row, and what to type when one of them breaks something."""

from collections.abc import Iterable

from tests.simulation.ledger import Ledger, ledger
from tests.simulation.schedule import played


BATCH = 50
"""How many schedules are one test."""


def complaints(seeds: Iterable[int], opened: Ledger) -> list[str]:
    """Return what the schedules of *seeds* broke, and the command that replays it."""
    return [
        f"seed {seed}: {violation}  (replay: python -m tests.simulation {seed})"
        for seed in seeds
        for violation in played(seed, opened).violations
    ]


def complaints_of_batch(first: int) -> list[str]:
    """Return what a batch of schedules broke, on a ledger of its own."""
    with ledger() as opened:
        return complaints(range(first, first + BATCH), opened)
