"""Submitting, waiting for, cancelling and listing refunds."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier

import pytest
from structlog.testing import capture_logs

from signer.errors import (
    BackendUnavailableError,
    BroadcastRejectedError,
    ChainUnavailableError,
    ConflictError,
    HotWalletError,
    IdempotencyMismatchError,
    InProgressError,
    InvalidInputError,
    NotCancellableError,
    NotFoundError,
    PolicyViolationError,
    StaleStateError,
    StoreUnavailableError,
    WalletPausedError,
)
from signer.model.audit_record import Actor
from signer.model.refund import Refund, RefundRequest, Status
from signer.ports import Ledger
from signer.refunds.service import ANSWER_TIMEOUT, RefundService, Submission
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.refunds import KEY, REQUEST, World, altered


def _overtaken(world: World, store: Ledger | None = None) -> RefundService:
    """Return a service whose every step another worker has just taken."""

    def step(refund: Refund, actor: Actor) -> Refund:
        world.lifecycle.step(refund, actor)
        return world.lifecycle.step(refund, actor)

    service = world.service
    service._store = store or world.store
    service._lifecycle = altered(world.lifecycle, step=step)
    return service


def test_a_refund_is_accepted_and_broadcast(world: World) -> None:
    """The first response has the hash, and the node has the bytes."""
    submission = world.submit()
    refund = submission.refund

    assert submission == Submission(refund, created=True, answer=None)
    assert refund == world.stored(refund)
    assert refund.status is Status.BROADCAST
    assert refund.tx_hash in world.chain.pool
    assert (refund.tenant, refund.idempotency_key) == ("gateway", "key-1")


def test_the_audit_log_names_client_and_request(world: World) -> None:
    """The signature is made on behalf of the client, for its request."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)

    world.submit()

    assert {(event["actor"], event["request_id"]) for event in events} == {
        ("token:gateway", "req-1")
    }


def test_a_repeated_request_gets_the_same_answer(world: World) -> None:
    """Nothing is sent again (R1)."""
    first = world.submit().refund
    answers = [world.service.remember_answer(first, each) for each in ("body", "x")]

    for _ in range(3):
        again = world.submit()

        assert again == Submission(first, created=False, answer="body")
    assert answers == ["body", "body"]  # Two processes give the same answer.
    assert len(world.chain.broadcasts) == 1


def test_twenty_concurrent_requests_create_one_refund(world: World) -> None:
    """One creates it; the others get a conflict or the same answer (R1)."""
    together = Barrier(20)

    def submit(_: int) -> Submission | InProgressError:
        together.wait()
        try:
            return world.submit()
        except InProgressError as e:
            return e

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(submit, range(20)))

    created = [one for one in found if isinstance(one, Submission)]
    assert [one.created for one in created] == [True]
    assert len(world.service.list("gateway").refunds) == 1
    assert len(world.chain.broadcasts) == 1


def test_a_repeated_request_waits_for_the_first(world: World) -> None:
    """For ten seconds it gets an error to try again later (R1)."""
    first = world.submit().refund
    world.clock.now += ANSWER_TIMEOUT - timedelta(milliseconds=1)

    with pytest.raises(InProgressError):
        world.submit()
    world.clock.advance(milliseconds=1)

    assert world.submit() == Submission(first, created=False, answer=None)


@pytest.mark.parametrize("age", [timedelta(hours=25), timedelta(days=31)])
def test_an_idempotency_key_never_expires(world: World, age: timedelta) -> None:
    """A payment cannot be undone, so its key is not reused (R3)."""
    first = world.submit().refund
    world.service.remember_answer(first, "body")
    world.clock.now += age

    assert world.submit().answer == "body"
    with pytest.raises(IdempotencyMismatchError):
        world.submit(replace(REQUEST, reference="another"))
    assert len(world.chain.broadcasts) == 1


@pytest.mark.parametrize(
    ("request_", "key", "error"),
    [
        (replace(REQUEST, amount="12.51"), "key-1", IdempotencyMismatchError),
        (replace(REQUEST, amount="-1"), "key-1", InvalidInputError),
        (REQUEST, "key-2", ConflictError),
    ],
    ids=["another request (R2)", "a malformed request", "the same reference (R4)"],
)
def test_a_key_and_a_reference_are_for_one_request(
    world: World, request_: RefundRequest, key: str, error: type[HotWalletError]
) -> None:
    """Another request with the same key or reference sends nothing (R2, R4)."""
    world.submit()

    with pytest.raises(error):
        world.submit(request_, key=key)
    assert len(world.chain.broadcasts) == 1


def test_clients_have_separate_keys_and_references(world: World) -> None:
    world.submit()

    assert world.submit(tenant="other").created


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (replace(REQUEST, amount="0"), InvalidInputError),
        (replace(REQUEST, recipient="0x"), InvalidInputError),
        (replace(REQUEST, network="mars"), PolicyViolationError),
        (replace(REQUEST, amount="1000.5"), PolicyViolationError),
    ],
)
def test_a_refused_request_is_not_stored(
    world: World, request_: RefundRequest, error: type[HotWalletError]
) -> None:
    """Neither the key nor the reference is used up by a mistake."""
    with pytest.raises(error):
        world.submit(request_)

    assert world.service.list("gateway").refunds == ()
    assert world.submit().created


def test_an_accepted_request_stays_accepted(world: World) -> None:
    """A limit that was lowered meanwhile does not make a replay an error (R3)."""
    first = world.submit().refund
    world.service.remember_answer(first, "body")
    world.change_token(max_amount="1")

    assert world.submit() == Submission(first, created=False, answer="body")
    with pytest.raises(PolicyViolationError):
        world.submit(replace(REQUEST, amount="13"))


@pytest.mark.parametrize(
    ("method", "error", "status"),
    [
        ("estimate_gas", ChainUnavailableError("gone"), Status.QUEUED),
        ("pending_count", ChainUnavailableError("gone"), Status.QUEUED),
        ("fees", ChainUnavailableError("gone"), Status.RESERVED),
        ("broadcast", ChainUnavailableError("gone"), Status.SIGNED),
        ("broadcast", BroadcastRejectedError("gone", reason="other"), Status.SIGNED),
    ],
)
def test_a_failure_after_acceptance_is_not_an_error(
    world: World, method: str, error: HotWalletError, status: Status
) -> None:
    """The refund waits, and the failure is logged without details."""
    world.chain.fail(method, error)

    with capture_logs() as logs:
        submission = world.submit()

    refund = submission.refund
    assert submission.created
    assert refund == world.stored(refund)
    assert (refund.status, refund.attempts, refund.blocked_by) == (
        status,
        1,
        error.code,
    )
    assert [
        (entry["event"], entry["code"], entry["status"], entry["refund_id"])
        for entry in logs
    ] == [("refund-delayed", error.code, status, refund.id)]
    assert "gone" not in str(logs)
    world.work()
    assert world.stored(refund).status is Status.BROADCAST


def test_an_unreachable_device_delays_the_refund(world: World) -> None:
    """The nonce is kept, and a worker signs when the device is back (K2)."""
    world.signer = signer_over(planted(point(KEY), BackendUnavailableError("gone")))

    refund = world.submit().refund

    assert refund.status is Status.RESERVED
    assert refund.nonce == 0


def test_a_step_that_waits_for_the_chain_ends_the_request(world: World) -> None:
    """Workers resolve a used nonce; the request does not wait for it."""
    service = world.service
    service._lifecycle = altered(world.lifecycle, step=lambda refund, actor: refund)

    submission = world.submit(service=service)

    assert submission.created
    assert submission.refund.status is Status.QUEUED
    assert submission.refund == world.stored(submission.refund)


def test_a_worker_may_be_faster(world: World) -> None:
    """If a worker took the step, the response is what the store has (R6)."""
    submission = world.submit(service=_overtaken(world))

    assert submission.created
    assert submission.refund.status is Status.RESERVED
    assert submission.refund == world.stored(submission.refund)


def test_a_ledger_that_fails_after_acceptance_is_not_an_error(world: World) -> None:
    """The response has the last known state: accepted."""
    service = _overtaken(world, altered(world.store, get=StoreUnavailableError("gone")))

    submission = world.submit(service=service)

    assert (submission.created, submission.refund.status) == (True, Status.QUEUED)


def test_a_refund_that_cannot_be_postponed_is_reread(world: World) -> None:
    """The response is what the store has."""
    service = world.service
    service._lifecycle = altered(
        world.lifecycle, postpone=StoreUnavailableError("gone")
    )
    world.chain.fail("broadcast", ChainUnavailableError("gone"))

    submission = world.submit(service=service)

    assert submission.created
    assert submission.refund.status is Status.SIGNED
    assert submission.refund == world.stored(submission.refund)


def test_a_request_stops_sending_after_five_seconds(world: World) -> None:
    """Workers may continue at once."""
    readings = iter([100.0, 100.0, 104.9, 105.0])
    service = world.service
    service._timer = lambda: next(readings)

    submission = world.submit(service=service)

    refund = submission.refund
    assert refund.status is Status.SIGNED
    assert refund == world.stored(refund)
    assert (refund.due_at, refund.blocked_by) == (world.clock(), None)
    assert world.worker.work() == 1


def test_an_unreachable_store_is_an_error(world: World) -> None:
    """It is unknown whether the refund was accepted; the same key finds out."""
    service = world.service
    service._store = altered(world.store, accept=StoreUnavailableError("gone"))

    with pytest.raises(StoreUnavailableError):
        world.submit(service=service)
    assert world.submit().created


def test_waiting_ends_when_the_refund_is_final(world: World) -> None:
    """A refund that is confirmed meanwhile is returned at once."""
    refund = world.submit().refund
    begun = world.clock()

    def sleep(seconds: float) -> None:
        world.clock.advance(seconds=seconds)
        if world.clock() - begun >= timedelta(seconds=1):
            world.mine_deep()
            world.confirmation_tracker.track()

    service = world.service
    service._sleep = sleep

    confirmed = service.wait(refund, 10)

    assert confirmed == world.stored(refund)
    assert confirmed.status is Status.CONFIRMED
    assert world.clock() - begun < timedelta(seconds=2)


@pytest.mark.parametrize(("seconds", "waited"), [(0, 0), (3, 3), (3600, 20)])
def test_waiting_ends_after_the_requested_time(
    world: World, seconds: int, waited: int
) -> None:
    """After 20 s at most, the refund is returned as it is."""
    refund = world.submit().refund
    begun = world.clock()

    assert world.service.wait(refund, seconds) == refund
    assert abs(world.clock() - begun - timedelta(seconds=waited)) < timedelta(
        seconds=0.3
    )


def test_waiting_survives_an_unreachable_ledger(world: World) -> None:
    """The last known state is kept, and reading is repeated."""
    refund = world.submit().refund
    service = world.service
    service._store = altered(world.store, get=StoreUnavailableError("gone"))

    assert service.wait(refund, 1) == refund


def test_a_queued_refund_can_be_cancelled(world: World) -> None:
    """No nonce was used; cancelling again is safe (R26)."""
    refund = world.accepted()

    with capture_logs() as logs:
        cancelled = world.service.cancel("gateway", refund.id)
        again = world.service.cancel("gateway", refund.id)

    assert cancelled == again == world.stored(refund)
    assert cancelled.status is Status.CANCELLED
    assert [(entry["event"], entry["status"]) for entry in logs] == [
        ("refund-ended", "cancelled")
    ]
    assert world.work() == 0
    assert world.chain.broadcasts == []


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_refund_with_a_nonce_cannot_be_cancelled(world: World, steps: int) -> None:
    """It stays as it is, whether it is reserved, signed, sent or paid (R26)."""
    refund = world.step(world.accepted(), times=min(steps, 3))
    if steps == 4:
        world.settle()
    before = world.stored(refund)

    with pytest.raises(NotCancellableError, match=str(before.status)):
        world.service.cancel("gateway", refund.id)
    assert world.stored(refund) == before


def test_a_cancellation_that_comes_late_changes_nothing(world: World) -> None:
    """A reservation between its read and its write wins (R26)."""
    refund = world.accepted()

    def get(refund_id: str) -> Refund | None:
        world.step(refund)
        return refund

    service = world.service
    service._store = altered(world.store, get=get)

    with pytest.raises(StaleStateError):
        service.cancel("gateway", refund.id)
    assert world.stored(refund).status is Status.RESERVED


def test_a_lost_payment_cannot_be_cancelled(
    world: World, empty: Callable[[], Ledger]
) -> None:
    """The client gets that it is paid, and does not pay it elsewhere (R24, R26)."""
    world.submit()
    world.mine_deep()
    world.store = empty()
    again = world.accepted(reference=REQUEST.reference)

    with pytest.raises(WalletPausedError):
        world.service.cancel("gateway", again.id)
    waiting = world.stored(again)
    world.reconcile()
    with pytest.raises(NotCancellableError, match="mined"):
        world.service.cancel("gateway", again.id)

    assert waiting == again
    assert world.stored(again).status is Status.MINED


def test_an_unreachable_chain_cancels_nothing(world: World) -> None:
    """It is unknown whether the refund is paid (R26)."""
    refund = world.accepted()
    world.chain.fail("pending_count", ChainUnavailableError("gone"))

    with pytest.raises(ChainUnavailableError):
        world.service.cancel("gateway", refund.id)
    assert world.stored(refund) == refund


def test_a_reservation_that_comes_late_sends_nothing(world: World) -> None:
    """A cancellation between the worker's read and its reservation wins (R26)."""
    refund = world.accepted()
    world.service.cancel("gateway", refund.id)

    with pytest.raises(StaleStateError):
        world.step(refund)
    assert world.stored(refund).nonce is None
    assert world.step(world.accepted()).nonce == 0


def test_a_refund_exists_for_its_client_only(world: World) -> None:
    """Another tenant can neither read nor cancel it."""
    refund = world.submit().refund
    queued = world.accepted()

    assert world.service.get("gateway", refund.id) == refund
    for tenant, refund_id in [("other", refund.id), ("gateway", "rf_x")]:
        with pytest.raises(NotFoundError):
            world.service.get(tenant, refund_id)
    with pytest.raises(NotFoundError):
        world.service.cancel("other", queued.id)
    assert world.stored(queued) == queued


def test_refunds_are_listed_by_client_session_and_status(world: World) -> None:
    """Filters and pages come from the store."""
    first = world.submit().refund
    other = replace(REQUEST, reference="2", payment_session_id="session-2")
    second = world.submit(other, key="key-2").refund
    service = world.service

    assert {refund.id for refund in service.list("gateway").refunds} == {
        first.id,
        second.id,
    }
    assert service.list("other").refunds == ()
    assert service.list("gateway", payment_session_id="session-2").refunds == (second,)
    assert service.list("gateway", status=Status.CONFIRMED).refunds == ()
    page = service.list("gateway", limit=1)
    assert len(page.refunds) == 1
    rest = service.list("gateway", limit=1, cursor=page.next_cursor)
    assert {page.refunds[0].id, rest.refunds[0].id} == {first.id, second.id}
