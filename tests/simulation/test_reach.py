"""The schedules reach the situations that the simulation is meant for."""

from collections import Counter
from itertools import pairwise

from tests.simulation.ledger import Ledger
from tests.simulation.schedule import play


_SITUATIONS = {
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
    "paused forever",
    "rejected",
}


def _count_events(ledger: Ledger, seed: int) -> Counter[str]:
    evidence = play(seed, ledger).evidence
    events = Counter(row.failure or row.status for row in evidence.rows)
    for history in evidence.history.values():
        statuses = [status for _, status in history]
        events.update(f"{a}-{b}" for a, b in pairwise(statuses))
    events.update(
        f"attempt {attempt}, {kind}"
        for (attempt, kind) in ledger.select("SELECT attempt, kind FROM transactions")
    )
    events.update(
        f"a key is {state}" for (state,) in ledger.select("SELECT state FROM keys")
    )
    events["sighted"] += len(evidence.sighted)
    events["paused forever"] += evidence.unaccepted
    events["rejected"] += len(evidence.journal.rejected)
    return events


def test_the_schedules_reach_every_situation(ledger: Ledger) -> None:
    """Reorganisations, replacements, restores, pauses, revocations and so on."""
    missing = set(_SITUATIONS)
    for seed in range(150):
        missing -= set(+_count_events(ledger, seed))
        if not missing:
            break

    assert missing == set()
