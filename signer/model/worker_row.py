"""What a worker records: that it runs, and the limits with which it started."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from signer.model.sealed_fields import NotStored, PrimaryKey, Small, sealed


STOPPED_AFTER = timedelta(seconds=20)
"""How old the last pass of a worker may be.  A pass waits for nodes, and takes seconds
if they hang."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """
    One worker process.

    ``name`` is random, and new at each start.  ``passed_at`` is when it last completed
    a pass, by the ledger's clock.  ``metrics`` is what it measures, as JSON.  No MAC
    covers the row: it decides nothing about what is signed.
    """

    name: PrimaryKey[str]
    started_at: datetime
    passed_at: datetime
    metrics: str = ""


def find_stopped(workers: Collection[WorkerRow], now: datetime) -> Sequence[WorkerRow]:
    """
    Return the workers that have completed no pass for ``STOPPED_AFTER``, oldest first.

    One that was killed does not count once another worker has started: its supervisor
    has replaced it.
    """
    last_start = max((each.started_at for each in workers), default=now)
    stopped = (
        each
        for each in workers
        if now - each.passed_at > STOPPED_AFTER and each.passed_at >= last_start
    )
    return sorted(stopped, key=lambda each: each.passed_at)


def find_running(workers: Collection[WorkerRow], now: datetime) -> Sequence[WorkerRow]:
    running = (each for each in workers if now - each.passed_at <= STOPPED_AFTER)
    return sorted(running, key=lambda each: (each.started_at, each.name))


THE_ROW = 1
"""The id of the only row."""


@sealed("accepted limits")
@dataclass(frozen=True)
class AcceptedLimits:
    """
    The limits that the last worker started with: a higher one needs an approval.

    ``document`` is what ``signer.config.file_limits.dump_limits`` writes.  ``version``
    counts the changes: each is a compare-and-set on it.  ``is_authentic`` is not
    stored: it is False if the MAC of the stored row is not valid.  No other field of
    such a row can be trusted.
    """

    id: PrimaryKey[int]
    document: str
    accepted_at: datetime
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True
