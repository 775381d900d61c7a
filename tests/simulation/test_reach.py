"""
The schedules reach the situations that the simulation is meant for.

These are the first schedules of the search in ``test_schedules.py``.
"""

from collections import Counter
from itertools import pairwise

from tests.simulation.ledger import Ledger
from tests.simulation.plan import SHORT, WITH_VAULT
from tests.simulation.schedule import Outcome, play


FIRST = range(100)
"""The seeds that are played here, and not in ``test_schedules.py``."""


_FOUND_MINED = (194,)
"""More seeds, in which a restored ledger finds that a queued refund is mined."""

_FOUND_PAID = (195, 238)
"""More seeds, in which a restored ledger finds that a refund was paid already."""

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
    "a window is full",
    "a full pool drops a transaction",
    "a refund that waits for a place is cancelled",
}


_IN_FLIGHT_AT_CANCELLATION = (
    "SELECT (SELECT count(*) FROM refund_moves AS begun WHERE status = 'reserved'"
    " AND begun.at <= ended.at AND NOT EXISTS (SELECT 1 FROM refund_moves AS mined"
    " WHERE mined.refund_id = begun.refund_id AND mined.at <= ended.at"
    " AND mined.status IN ('mined', 'failed')))"
    " FROM refund_moves AS ended WHERE status = 'cancelled'"
)


def _count_events(ledger: Ledger, outcome: Outcome) -> Counter[str]:
    evidence = outcome.evidence
    events = Counter(row.failure or row.status for row in evidence.rows)
    for history in evidence.history.values():
        statuses = [status for _, status in history]
        events.update(f"{a}-{b}" for a, b in pairwise(statuses))
    events.update(
        f"attempt {attempt}, {kind}"
        for (attempt, kind) in ledger.select("SELECT attempt, kind FROM attempts")
    )
    events.update(
        f"a key is {state}" for (state,) in ledger.select("SELECT state FROM keys")
    )
    events["sighted"] += len(evidence.sighted)
    events["paused forever"] += evidence.unaccepted
    events["rejected"] += len(evidence.journal.rejected)
    if window := evidence.plan.window:
        events["a window is full"] += evidence.most_waiting == window
        events["a full pool drops a transaction"] += evidence.dropped
        cancelled = ledger.select(_IN_FLIGHT_AT_CANCELLATION)
        events["a refund that waits for a place is cancelled"] += sum(
            count >= window for (count,) in cancelled
        )
    return events


_AFTER_RESTORES = {
    "a restore with the log",
    "a restore without it",
    "a filler: nonce-filled",
    "a filler: nonce-taken",
    "already-paid",
    "a promise is kept",
    "a cancellation is kept",
    "a record is missing in the log",
    "a revoked key's wallet waits",
}


def _count_after_restore(outcome: Outcome) -> Counter[str]:
    evidence, has_log = outcome.evidence, outcome.plan.has_log
    events = Counter(
        f"a filler: {row.failure}" if row.is_filler else str(row.failure)
        for row in evidence.rows
    )
    events["a restore with the log"] += has_log
    events["a restore without it"] += not has_log
    events["a promise is kept"] += has_log * len(evidence.journal.earlier)
    events["a cancellation is kept"] += has_log * len(evidence.journal.cancelled)
    events["a record is missing in the log"] += len(evidence.observer.unlogged)
    events["a revoked key's wallet waits"] += len(evidence.stuck)
    return events


def test_the_restores_reach_every_situation(ledger: Ledger) -> None:
    """Fillers that are mined or not, logs with and without holes, and so on."""
    missing = set(_AFTER_RESTORES)
    for seed in (*FIRST, *_FOUND_PAID):
        outcome = play(seed, ledger, **SHORT)
        assert not outcome.violations, seed
        missing -= set(+_count_after_restore(outcome))

    assert missing == set()


def test_the_schedules_reach_every_situation(ledger: Ledger) -> None:
    """Reorganisations, replacements, restores, pauses, revocations and so on."""
    missing = set(_SITUATIONS)
    for seed in (*FIRST, *_FOUND_MINED):
        outcome = play(seed, ledger)
        assert not outcome.violations, seed
        missing -= set(+_count_events(ledger, outcome))

    assert missing == set()


_WITH_VAULT = {
    "several payments",
    "some are paid",
    "none is paid",
    "a batch reverts",
    "a batch is replaced",
    "mined-queued",
    "broadcast-signed",
    "mined-broadcast",
    "a key is blocked",
    "a window is full",
}


def _count_batches(outcome: Outcome) -> Counter[str]:
    evidence = outcome.evidence
    events = Counter[str]()
    for mined in evidence.mined:
        if mined.transaction.is_batch:
            asked, paid = len(mined.transaction.asked), len(mined.paid)
            events["several payments"] += asked > 1
            events["some are paid"] += 0 < paid < asked
            events["none is paid"] += mined.succeeded and not paid
            events["a batch reverts"] += not mined.succeeded
    slots = Counter(tx.slot for tx in evidence.sent if tx.is_batch)
    events["a batch is replaced"] += sum(count > 1 for count in slots.values())
    return events


def test_the_vaults_reach_every_situation(ledger: Ledger) -> None:
    """Batches that are paid in part, revert, are replaced or queued again."""
    missing = set(_WITH_VAULT)
    for seed in range(100):
        outcome = play(seed, ledger, **WITH_VAULT)
        assert not outcome.violations, seed
        missing -= set(+_count_events(ledger, outcome))
        missing -= set(+_count_batches(outcome))

    assert missing == set()
