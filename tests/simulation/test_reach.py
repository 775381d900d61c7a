"""The schedules reach the situations that the simulation is meant for."""

from collections import Counter
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import pytest

from tests.simulation.ledger import Ledger
from tests.simulation.plan import SHORT, WITH_VAULT
from tests.simulation.schedule import Outcome, play, warn_if_stale


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


def _count_after_restore(_: Ledger, outcome: Outcome) -> Counter[str]:
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


def _count_batches(ledger: Ledger, outcome: Outcome) -> Counter[str]:
    evidence = outcome.evidence
    events = _count_events(ledger, outcome)
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


@pytest.mark.parametrize(
    ("situations", "count", "likely", "changes"),
    [
        (_SITUATIONS, _count_events, (237, 295, 86, 198, 60, 10, 34, 37, 22, 9), {}),
        (_AFTER_RESTORES, _count_after_restore, (115, 238, 10, 31, 0), SHORT),
        (_WITH_VAULT, _count_batches, (295, 92, 241, 154, 8), WITH_VAULT),
    ],
    ids=["plain", "restores", "vaults"],
)
def test_every_situation_is_reached(
    *,
    ledger: Ledger,
    situations: set[str],
    count: Callable[[Ledger, Outcome], Counter[str]],
    likely: tuple[int, ...],
    changes: dict[str, Any],
) -> None:
    """
    The seeds *likely* reached all of them when the test was written.

    After a change of the service, others are played until none is missing.
    """
    missing, needed = set(situations), []
    for seed in chain(likely, range(300)):
        outcome = play(seed, ledger, **changes)
        assert not outcome.violations, seed
        if reached := missing & set(+count(ledger, outcome)):
            needed.append(seed)
            missing -= reached
        if not missing:
            warn_if_stale(likely, needed)
            return

    pytest.fail(f"not reached: {missing}")
