"""A tenant asks to cancel a refund, and a worker cancels it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from signer.errors import (
    ChainUnavailableError,
    NotCancellableError,
    RowNotAuthenticError,
    StaleStateError,
)
from signer.model.refund import Refund, Status
from signer.ports.ledger import Ledger
from signer.refunds.service import WORKER_SECONDS, require_cancellable
from tests.fixtures.ledger import as_if, forge
from tests.support.audit import of_refunds
from tests.support.devices import recording
from tests.support.ledgers import seal
from tests.support.refunds import ACTOR, REQUEST, World, altered, altered_chain


def test_a_queued_refund_can_be_cancelled(world: World) -> None:
    """No nonce was used; cancelling again is safe (R26)."""
    refund = world.accepted()
    begun = world.clock()

    with capture_logs() as logs:
        cancelled = world.cancel(refund)
        again = world.cancel(refund)

    assert cancelled == again == world.stored(refund)
    assert cancelled.status is Status.CANCELLED
    assert cancelled.cancel_requested_at == begun
    assert world.clock() == begun  # The worker took it at once.
    assert [(entry["event"], entry["status"]) for entry in logs] == [
        ("refund-ended", "cancelled")
    ]
    assert world.work() == 0
    assert world.chain.broadcasts == []


def test_a_request_to_cancel_moves_nothing_by_itself(world: World) -> None:
    """It is a mark that a worker reads; the first one stays (R26)."""
    refund = world.accepted()
    audit, events = recording()
    service = world.service
    service._audit = audit

    for _ in range(2):
        assert service.request_cancellation("gateway", refund.id, ACTOR).id == refund.id
        world.clock.advance(seconds=1)

    requested_at = world.clock() - timedelta(seconds=2)
    assert world.stored(refund) == replace(refund, cancel_requested_at=requested_at)
    assert of_refunds(events) == [
        ("refund-cancel-requested", ACTOR.name, ACTOR.request_id, refund.id)
    ]
    assert dict(world.chain.calls) == {}


def test_a_request_to_cancel_is_in_the_ledger(world: World) -> None:
    """The records of caller and worker are sealed with what they changed (R26)."""
    refund = world.accepted()
    world.cancel(refund)
    seal(world.store)

    records = [each.record.fields for each in world.store.sealed(0, 1000)]
    of_refund = [each for each in records if each["operation"] == "refund"]
    assert of_refunds(of_refund) == [
        ("refund-cancel-requested", ACTOR.name, ACTOR.request_id, refund.id),
        ("refund-cancel-succeeded", "worker", None, refund.id),
    ]


def test_a_refusal_is_in_the_ledger(world: World) -> None:
    """Otherwise a restored ledger would pay a refund that was reported as refused."""
    refund = world.accepted()
    world.chain.revert = "blocked address"
    world.step(refund)
    seal(world.store)

    (refused,) = [each.record.fields for each in world.store.sealed(0, 1000)]
    assert of_refunds([refused]) == [
        ("refund-refuse-succeeded", "worker", None, refund.id)
    ]
    assert refused["details"]["code"] == "execution-reverted"
    assert refused["details"]["network"] == "local"


def test_waiting_for_a_cancellation_ends_after_three_seconds(world: World) -> None:
    """Without a worker, the refund stays queued, and the request is kept (R26)."""
    refund = world.accepted()
    begun = world.clock()
    service = world.service_beside(lambda _: world.clock.advance(seconds=1))

    asked = service.request_cancellation("gateway", refund.id, ACTOR)
    waiting = service.await_cancellation(asked)

    assert (waiting.status, waiting.cancel_requested_at) == (Status.QUEUED, begun)
    assert world.clock() - begun == timedelta(seconds=WORKER_SECONDS)
    world.worker.work()
    assert world.stored(refund).status is Status.CANCELLED


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_refund_with_a_nonce_cannot_be_cancelled(world: World, steps: int) -> None:
    """It stays as it is, whether it is reserved, signed, sent or paid (R26)."""
    refund = world.step(world.accepted(), times=min(steps, 3))
    if steps == 4:
        world.settle()
    before = world.stored(refund)
    audit, events = recording()
    service = world.service_beside(lambda _: pytest.fail("it waited"))
    service._audit = audit

    asked = service.request_cancellation("gateway", refund.id, ACTOR)

    assert service.await_cancellation(asked) == asked == before
    assert world.stored(refund) == before
    assert world.store.cancellation_requests(10) == ()
    assert events == []


@pytest.mark.parametrize("status", Status)
def test_only_a_refund_without_a_nonce_may_be_cancelled(
    world: World, status: Status
) -> None:
    """One that was cancelled passes, so that a caller may repeat its request (R26)."""
    refund = as_if(world.accepted(), status=status)
    if status in {Status.AWAITING_APPROVAL, Status.QUEUED, Status.CANCELLED}:
        require_cancellable(refund)
    else:
        with pytest.raises(NotCancellableError, match=f"the refund is {status}: "):
            require_cancellable(refund)


def test_a_cancellation_that_comes_late_changes_nothing(world: World) -> None:
    """A reservation between its read and its write wins (R26)."""
    refund = world.accepted()
    audit, events = recording()
    service = world.service
    service._audit = audit

    def get(refund_id: str) -> Refund | None:
        world.step(refund)
        return refund

    service._store = altered(world.store, get=get)

    asked = service.request_cancellation("gateway", refund.id, ACTOR)

    assert asked == refund
    assert events == []
    reserved = world.stored(refund)
    assert world.service.await_cancellation(asked) == reserved
    assert (reserved.status, reserved.cancel_requested_at) == (Status.RESERVED, None)


def test_a_request_during_the_reservation_comes_first(world: World) -> None:
    """A worker that read the refund before gives it no nonce, and cancels it (R26)."""
    refund = world.accepted()

    def pending_count(address: str) -> int:
        if world.stored(refund).cancel_requested_at is None:
            world.service.request_cancellation("gateway", refund.id, ACTOR)
        return world.chain.pending_count(address)

    world.client = altered_chain(world.chain, pending_count=pending_count)
    with pytest.raises(StaleStateError):
        world.lifecycle.step(refund)
    waiting = world.stored(refund)
    world.worker.work()

    assert (waiting.status, waiting.nonce) == (Status.QUEUED, None)
    assert world.stored(refund).status is Status.CANCELLED
    assert world.chain.broadcasts == []


def test_a_lost_payment_cannot_be_cancelled(
    world: World, empty: Callable[[], Ledger]
) -> None:
    """The client gets that it is paid, and does not pay it elsewhere (R24, R26)."""
    world.submit()
    world.mine_deep()
    world.store = empty()
    again = world.accepted(reference=REQUEST.reference)

    waiting = world.cancel(again)
    world.state_marks()
    world.reconcile()
    world.worker.work()
    paid = world.cancel(again)

    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "wallet-paused")
    assert paid.status is Status.MINED
    assert world.stored(again) == paid
    assert len(world.chain.broadcasts) == 1


def test_an_unreachable_chain_cancels_nothing(world: World) -> None:
    """It is unknown whether the refund is paid; the worker tries again (R26)."""
    refund = world.accepted()
    world.chain.fail("pending_count", ChainUnavailableError("gone"))

    waiting = world.cancel(refund)

    assert (waiting.status, waiting.nonce) == (Status.QUEUED, None)
    assert (waiting.moving.blocked_by, waiting.moving.attempts) == (
        "chain-unavailable",
        1,
    )
    world.worker.work()
    assert world.stored(refund).status is Status.CANCELLED
    assert world.chain.broadcasts == []


def test_a_changed_refund_cannot_be_cancelled(world: World) -> None:
    """Its record would name what another program wrote (T8)."""
    refund = world.accepted()
    forge(world.store, "DROP TRIGGER refunds_keep")
    forge(world.store, "UPDATE refunds SET amount = 1")

    with pytest.raises(RowNotAuthenticError):
        world.service.request_cancellation("gateway", refund.id, ACTOR)
    assert world.store.cancellation_requests(10) == ()
