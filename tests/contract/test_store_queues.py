"""Contract of ``RefundStore.postpone_queue``: a queue that is due waits as a whole."""

import pytest

from backends.sql import SQLStore, refunds
from signer.model.refund import Queue, Status
from tests.fixtures.ledger import (
    accepted,
    bound,
    later,
    now,
    reserved,
    save,
    signed,
    stored,
)
from tests.fixtures.ledger import claimed as claimed_from


QUEUES = (
    Queue(network="local"),
    Queue(tenant="gateway"),
    Queue(tenant="gateway", network="local", token="TUSD"),
)


def _postpone(store: SQLStore, queue: Queue) -> int:
    return store.postpone_queue(
        queue, now=later(1), until=later(30), code="wallet-paused"
    )


@pytest.mark.parametrize("queue", QUEUES, ids=["network", "tenant", "token"])
def test_due_refunds_of_the_queue_are_postponed(store: SQLStore, queue: Queue) -> None:
    """Each is as after a failed step of its own."""
    first, second = (accepted(store, due_at=now()) for _ in range(2))
    others = [
        accepted(store, due_at=later(20)),
        accepted(store, due_at=now(), network="other", tenant="shop"),
        accepted(store, due_at=now(), **bound()),
    ]
    until = later(30)
    count = store.postpone_queue(queue, now=later(1), until=until, code="some-code")

    assert count == 2
    for refund in (first, second):
        expected = refund.with_due_at(until, attempts=1, blocked_by="some-code")
        assert stored(store, refund) == expected
    assert [stored(store, refund) for refund in others] == others
    claimed = [each.id for each in claimed_from(store, later(1), later(20), 10)]
    assert sorted(claimed) == sorted(refund.id for refund in others[1:])


def test_only_queued_refunds_are_postponed(store: SQLStore) -> None:
    """A refund that has a nonce is paid from a paused wallet too."""
    refund = signed(store, reserved(store, accepted(store)))
    due = refund.with_due_at(now())
    save(store, refund, due)

    assert _postpone(store, QUEUES[0]) == 0
    assert stored(store, refund) == due
    assert due.status is Status.SIGNED


def test_a_claimed_refund_is_not_postponed(store: SQLStore) -> None:
    """Its claimant saves what comes of it."""
    accepted(store, due_at=now())
    (claimed,) = claimed_from(store, later(1), later(20), 10)

    assert _postpone(store, QUEUES[0]) == 0
    assert stored(store, claimed) == claimed


def test_a_long_queue_is_postponed_in_parts(
    store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length of the queue may be a multiple of that of a part."""
    waiting = [accepted(store, due_at=now()) for _ in range(4)]
    monkeypatch.setattr(refunds, "PART", 2)

    assert _postpone(store, QUEUES[0]) == 4
    assert [stored(store, each).attempts for each in waiting] == [1] * 4
