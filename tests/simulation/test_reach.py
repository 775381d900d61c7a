"""What the schedules go through: a simulation of sunny days would prove nothing."""

from collections import Counter
from itertools import pairwise

from tests.simulation.ledger import Ledger
from tests.simulation.schedule import played


def _happened(ledger: Ledger, seed: int) -> Counter[str]:
    evidence = played(seed, ledger).evidence
    happened = Counter(row.failure or row.status for row in evidence.rows)
    for history in evidence.history.values():
        statuses = [status for _, status in history]
        happened.update(f"{a}-{b}" for a, b in pairwise(statuses))
    happened.update(
        f"attempt {attempt}, {kind}"
        for (attempt, kind) in ledger.select("SELECT attempt, kind FROM transactions")
    )
    happened.update(
        f"a key is {state}" for (state,) in ledger.select("SELECT state FROM keys")
    )
    happened["sighted"] += len(evidence.sighted)
    happened["paused for ever"] += evidence.unaccepted
    happened["turned down"] += len(evidence.journal.turned_down)
    return happened


def test_the_schedules_go_through_every_misfortune(ledger: Ledger) -> None:
    """Reorganised, replaced, reverted, forgotten, paused, given up and called off."""
    happened = sum((_happened(ledger, seed) for seed in range(150)), Counter[str]())

    assert {
        "confirmed",
        "cancelled",
        "reverted",
        "nonce-taken",
        "execution-reverted",
        "broadcast-signed",
        "mined-broadcast",
        "queued-mined",
        "reserved-queued",
        "a key is retired",
        "a key is blocked",
        "attempt 1, transfer",
        "attempt 0, noop",
        "sighted",
        "paused for ever",
        "turned down",
    } <= set(+happened)
