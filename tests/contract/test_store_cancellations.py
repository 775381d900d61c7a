"""Contract of ``RefundStore``: one audited request, which disturbs no worker."""

from dataclasses import replace

import pytest

from backends.sql import SQLStore
from signer.errors import RowNotAuthenticError, StaleStateError
from signer.model.audit_record import Record
from signer.model.refund import Refund, Status
from tests.fixtures.ledger import (
    accept,
    accepted,
    later,
    moved,
    now,
    queued,
    reserved,
    save,
    stored,
)
from tests.fixtures.races import race
from tests.support.audit import record
from tests.support.ledgers import seal_events


AT = now()


def _request(store: SQLStore, refund: Refund, name: str = "x") -> bool:
    return store.request_cancellation(refund, AT, record(event=name))


def test_a_request_is_stored_once(store: SQLStore) -> None:
    """The first request and its record are stored; nothing else of the row changes."""
    refund = accepted(store)

    assert _request(store, refund, "first")
    assert not store.request_cancellation(refund, later(9), record(event="second"))
    assert stored(store, refund) == replace(refund, cancel_requested_at=AT)
    assert seal_events(store) == ["first"]


@pytest.mark.parametrize("status", [Status.REFUSED, Status.CANCELLED, Status.RESERVED])
def test_a_refund_that_is_not_queued(store: SQLStore, status: Status) -> None:
    """A refund that left the queue gets no request and no record."""
    refund = accepted(store)
    if status is Status.RESERVED:
        after = reserved(store, refund)
    else:
        after = moved(store, refund, status)

    assert not _request(store, refund)
    assert stored(store, refund) == after
    assert seal_events(store) == []


def test_an_unknown_refund(store: SQLStore) -> None:
    """A refund that is not in the database gets no record."""
    assert not _request(store, queued())
    assert seal_events(store) == []


def test_a_row_that_another_program_changed(store: SQLStore) -> None:
    """No request is made for a row that another program wrote."""
    refund = accepted(store)

    with pytest.raises(RowNotAuthenticError):
        _request(store, replace(refund, amount=1))
    assert stored(store, refund) == refund
    assert seal_events(store) == []


def test_a_worker_is_not_disturbed(store: SQLStore) -> None:
    """A worker that read the refund before may delay it, and gives it no nonce."""
    refund = accepted(store)
    assert _request(store, refund)
    delayed = refund.with_due_at(later(1), blocked_by="reason")
    save(store, refund, delayed)

    with pytest.raises(StaleStateError):
        reserved(store, delayed)
    assert stored(store, refund) == replace(delayed, cancel_requested_at=AT)


def test_no_step_changes_a_request(store: SQLStore) -> None:
    """A caller of ``save`` or ``accept_all`` cannot make or withdraw one."""
    refund = accepted(store)
    assert _request(store, refund)
    asked = stored(store, refund)

    for before, wanted in ((asked, None), (refund, AT)):
        after = replace(before.with_due_at(later(1)), cancel_requested_at=wanted)
        with pytest.raises(ValueError, match="permanent"):
            save(store, before, after)
    with pytest.raises(ValueError, match="queued"):
        accept(store, queued(cancel_requested_at=AT))
    assert stored(store, refund) == asked


def test_workers_read_the_requests(store: SQLStore) -> None:
    """Only queued refunds with a request are listed, in pages, oldest first."""
    asked = [accepted(store) for _ in range(4)]
    accepted(store)
    reserved(store, asked[2])
    for refund in reversed(asked):
        assert _request(store, refund) is (refund is not asked[2])
    moved(store, asked[1], Status.CANCELLED)
    found = store.cancellation_requests(10)

    assert [each.id for each in found] == [asked[0].id, asked[3].id]
    assert list(found) == [stored(store, each) for each in found]
    assert store.cancellation_requests(1) == found[:1]
    assert store.cancellation_requests(1, after=found[0].id) == found[1:]
    assert store.cancellation_requests(1, after=found[1].id) == ()


PROCESSES = 4
REFUNDS = 20


def _ask_or_reserve(store: SQLStore, index: int) -> list[str]:
    """Ask to cancel each refund, or reserve each; return the ids that were changed."""
    refunds = store.list("gateway", limit=REFUNDS).refunds
    if index % 2:
        return [each.id for each in refunds if _request(store, each, each.id)]
    return [each.id for each in refunds if _is_refused(store, each)]


def _is_refused(store: SQLStore, refund: Refund) -> bool:
    try:
        moved(store, refund, Status.REFUSED)
    except Exception:  # noqa: BLE001  Another process was first.
        return False
    return True


def test_processes_ask_once(database_url: str, store: SQLStore) -> None:
    """Each refund has one request at most, and each request its record."""
    for _ in range(REFUNDS):
        accepted(store)
    results = race(_ask_or_reserve, database_url, PROCESSES)
    asked = [id_ for ids in results[1::2] for id_ in ids]
    ended = [id_ for ids in results[::2] for id_ in ids]
    rows = store.list("gateway", limit=REFUNDS).refunds

    assert len(asked) == len(set(asked))
    assert sorted(ended) == sorted(each.id for each in rows)
    assert set(asked) == {each.id for each in rows if each.cancel_requested_at}
    assert sorted(seal_events(store)) == sorted(asked)
    assert store.cancellation_requests(REFUNDS) == ()


def test_a_record_that_cannot_be_written(store: SQLStore) -> None:
    """Without its record, the request is not stored."""
    refund = accepted(store)
    twice = Record.of({"event": "x"}, AT)
    store.append([twice])

    with pytest.raises(Exception, match="constraint"):
        store.request_cancellation(refund, AT, twice)
    assert stored(store, refund) == refund
