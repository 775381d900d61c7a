"""Waiting requests: one thread reads for all of them, and wakes those that are done."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from backends.sql import SQLStore
from signer.errors import StoreUnavailableError
from signer.model.refund import Refund, Status
from signer.refunds import refund_waits
from signer.refunds.refund_waits import (
    BROADCAST_TRIED,
    DEQUEUED,
    FINAL,
    RefundWaits,
    WaitCondition,
)
from tests.fixtures.ledger import accepted, as_if, now, save, step_to
from tests.support.ledgers import open_ledger
from tests.support.refunds import altered, watched
from tests.support.waiting import eventually


class Process:
    """An API process whose requests wait, beside a worker with its own connection."""

    def __init__(self, url: str) -> None:
        self.worker = open_ledger(url)
        self.api = open_ledger(url)
        self.reads: list[Collection[str]] = []
        self.gone = threading.Event()
        self.reading = threading.Lock()
        self.threads = ThreadPoolExecutor(20)
        store = altered(self.api, find_advanced=self._find_advanced)
        self.waits = RefundWaits(store, time.monotonic)

    def _find_advanced(
        self, ids: Collection[str], statuses: Collection[Status]
    ) -> Sequence[Refund]:
        try:
            with self.reading:
                if self.gone.is_set():
                    raise StoreUnavailableError("gone")
                return self.api.find_advanced(ids, statuses)
        finally:
            self.reads.append(ids)

    def waiting(
        self,
        *refunds: Refund,
        condition: WaitCondition = BROADCAST_TRIED,
        seconds: float = 20,
    ) -> "list[Future[Refund | None]]":
        """Let a request wait for each of *refunds*; return when all do."""
        futures = []
        for refund in refunds:
            entered, read = len(self.waits._waits) + 1, len(self.reads) + 1
            futures.append(
                self.threads.submit(self.waits.wait, refund, seconds, condition)
            )
            assert eventually(partial(self._have, entered, read))
        return futures

    def _have(self, waits: int, reads: int) -> bool:
        return len(self.waits._waits) >= waits and len(self.reads) >= reads

    def end(self, refund: Refund) -> Refund:
        """Refuse *refund* as a worker."""
        after = step_to(refund, Status.REFUSED, now(), failure_code="x")
        save(self.worker, refund, after)
        return after


@pytest.fixture
def process(database_url: str) -> Iterator[Process]:
    process = Process(database_url)
    with process.threads:
        yield process
    process.api.close()
    process.worker.close()


def test_each_request_gets_its_refund(process: Process) -> None:
    """In any order, and while others go on waiting; also two for one refund."""
    refunds = [accepted(process.worker) for _ in range(5)]
    futures = process.waiting(*refunds, refunds[4])
    for index in (3, 0, 4):
        after = process.end(refunds[index])
        assert futures[index].result(10) == after
    assert futures[5].result(10) == futures[4].result(10)
    assert not any(futures[index].done() for index in (1, 2))
    for index in (2, 1):
        after = process.end(refunds[index])
        assert futures[index].result(10) == after
    assert process.waits._waits == []
    assert process.waits._watcher is None


def test_one_thread_reads_for_all(process: Process) -> None:
    """After a change there is one query, however many requests wait."""
    refunds = [accepted(process.worker) for _ in range(8)]
    futures = process.waiting(*refunds)
    # The commits before may still wake the watcher of PostgreSQL.
    settled = eventually(lambda: _is_still(process.reads))
    process.reads.clear()
    after = process.end(refunds[7])

    assert settled
    assert futures[7].result(10) == after
    assert process.reads == [sorted(refund.id for refund in refunds)]
    for refund in refunds[:7]:
        process.end(refund)
    assert all(future.result(10) for future in futures)


def _is_still(reads: Sequence[object]) -> bool:
    before = len(reads)
    threading.Event().wait(0.1)
    return len(reads) == before


def test_a_change_before_the_wait_is_seen(process: Process) -> None:
    """Also by a request that does not watch itself."""
    one, other = accepted(process.worker), accepted(process.worker)
    [watching] = process.waiting(one)
    after = process.end(other)

    assert process.waits.wait(other, 20, BROADCAST_TRIED) == after
    process.end(one)
    assert watching.result(10) is not None


def test_a_request_that_the_watcher_has_read_does_not_read(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also takes over the watch."""
    monkeypatch.setattr(refund_waits, "ENTRY_SECONDS", 30)
    one, other = accepted(process.worker), accepted(process.worker)
    [watching] = process.waiting(one)
    entered = process.threads.submit(process.waits.wait, other, 20, BROADCAST_TRIED)
    assert eventually(lambda: len(process.waits._waits) == 2)
    watch = process.waits._watch
    # The watcher may be reading for one of them: after another change it has for both.
    process.end(accepted(process.worker))
    assert eventually(lambda: sorted([one.id, other.id]) in process.reads)
    after = process.end(one)

    assert watching.result(10) == after
    assert process.waits._watch is watch
    after = process.end(other)
    assert entered.result(10) == after
    assert process.waits._watch is None


def test_a_wait_ends_after_its_time(process: Process) -> None:
    """The watcher's too; another request then watches."""
    refunds = [accepted(process.worker) for _ in range(3)]
    [first] = process.waiting(refunds[0], seconds=1)
    [second, third] = [
        process.waiting(refund, seconds=seconds)[0]
        for refund, seconds in zip(refunds[1:], (1, 20), strict=True)
    ]

    assert (first.result(10), second.result(10)) == (None, None)
    assert not third.done()
    after = process.end(refunds[2])
    assert third.result(10) == after


def test_a_wait_for_no_time_does_not_wait(process: Process) -> None:
    refund = accepted(process.worker)

    assert process.waits.wait(refund, 0, BROADCAST_TRIED) is None
    assert process.waits.wait(process.end(refund), 0, BROADCAST_TRIED) is not None


@pytest.mark.parametrize(
    ("condition", "over"),
    [
        (BROADCAST_TRIED, {"broadcast", "mined", "confirmed", "blocked"}),
        (FINAL, {"confirmed"}),
        (DEQUEUED, {"reserved", "signed", "broadcast", "mined", "confirmed"}),
    ],
)
def test_the_conditions(
    process: Process, condition: WaitCondition, over: set[str]
) -> None:
    """What ends the wait for a broadcast, for the end and for a cancellation."""
    refund = accepted(process.worker)
    statuses = {status: as_if(refund, status=Status(status)) for status in _STATUSES}
    states = {**statuses, "blocked": replace(refund, blocked_by="limit-reached")}

    assert {name for name in states if condition.is_met(states[name])} == over


_STATUSES = ("queued", "reserved", "signed", "broadcast", "mined", "confirmed")


def test_requests_with_other_conditions_share_the_reads(process: Process) -> None:
    blocked, other = accepted(process.worker), accepted(process.worker)
    [final] = process.waiting(blocked, condition=FINAL)
    [tried] = process.waiting(blocked)
    [queued] = process.waiting(other, condition=DEQUEUED)
    held = replace(blocked, blocked_by="limit-reached", version=1, attempts=1)
    save(process.worker, blocked, held)

    assert tried.result(10) == held
    assert not final.done()
    after = process.end(other)
    assert queued.result(10) == after
    after = process.end(held)
    assert final.result(10) == after


def test_an_unavailable_store_is_asked_again(process: Process) -> None:
    """A change that could not be read is not lost."""
    refunds = [accepted(process.worker) for _ in range(2)]
    futures = process.waiting(*refunds)
    with process.reading:  # A read that has begun would see the changes below.
        process.gone.set()
    after = [process.end(refund) for refund in refunds]
    failed = len(process.reads)
    assert eventually(lambda: len(process.reads) > failed + 1)
    assert not any(future.done() for future in futures)
    process.gone.clear()

    assert [future.result(10) for future in futures] == after


def test_an_unreadable_row_is_the_error_of_its_request(sqlite_store: SQLStore) -> None:
    """Another program wrote it; the other requests get their refunds."""
    refunds = [accepted(sqlite_store) for _ in range(3)]
    after = [
        step_to(refund, Status.REFUSED, now(), failure_code="x") for refund in refunds
    ]
    begun = threading.Event()
    reads: list[Collection[str]] = []

    def find_advanced(
        ids: Collection[str], statuses: Collection[Status]
    ) -> Sequence[Refund]:
        try:
            return sqlite_store.find_advanced(ids, statuses)
        finally:
            reads.append(ids)

    def wait(seconds: float) -> None:
        if begun.is_set():
            return
        # All three have read their refunds, and only the watcher reads from now on.
        assert eventually(lambda: len(waits._waits) == 3 and len(reads) >= 3)
        sqlite_store._database.transaction(
            lambda c: c.exec_driver_sql(_BROKEN, (refunds[1].id,))
        )
        for index in (0, 2):
            save(sqlite_store, refunds[index], after[index])
        begun.set()

    store = altered(sqlite_store, find_advanced=find_advanced)
    waits = RefundWaits(watched(store, wait), time.monotonic)
    with ThreadPoolExecutor(3) as threads:
        futures = [
            threads.submit(waits.wait, refund, 20, DEQUEUED) for refund in refunds
        ]
        with pytest.raises(ValueError, match="broken"):
            futures[1].result(10)

    assert [futures[index].result() for index in (0, 2)] == [after[0], after[2]]
    assert waits._waits == []


_BROKEN = """
    UPDATE refunds SET state = 'refused', failure_code = 'x', updated_at = 'broken'
    WHERE id = ?
"""


def test_an_interrupted_watcher_is_replaced(sqlite_store: SQLStore) -> None:
    """No request is left waiting if the watching thread dies."""
    refund, other = accepted(sqlite_store), accepted(sqlite_store)
    interrupted = threading.Event()

    def wait(seconds: float) -> None:
        if not interrupted.is_set():
            assert eventually(lambda: len(waits._waits) == 2)
            interrupted.set()
            raise KeyboardInterrupt
        save(
            sqlite_store, other, step_to(other, Status.REFUSED, now(), failure_code="x")
        )

    waits = RefundWaits(watched(sqlite_store, wait), time.monotonic)
    with ThreadPoolExecutor(2) as threads:
        dying = threads.submit(_expect_interruption, waits, refund)
        assert eventually(lambda: len(waits._waits) == 1)
        found = threads.submit(waits.wait, other, 20, BROADCAST_TRIED).result(10)
        dying.result(10)

    assert found is not None
    assert found.status is Status.REFUSED
    assert waits._waits == []


def _expect_interruption(waits: RefundWaits, refund: Refund) -> None:
    with pytest.raises(KeyboardInterrupt):
        waits.wait(refund, 20, BROADCAST_TRIED)
