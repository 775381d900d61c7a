"""Submitting, waiting for, cancelling and listing refunds."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest

from signer.amounts import parse_units
from signer.errors import (
    BroadcastRejectedError,
    ChainUnavailableError,
    ConflictError,
    HotWalletError,
    IdempotencyMismatchError,
    InvalidInputError,
    NotFoundError,
    PolicyViolationError,
    StoreUnavailableError,
    TenantBlockedError,
)
from signer.model.decision import Verdict
from signer.model.hold import Hold
from signer.model.payment import PaymentState
from signer.model.refund import COIN, Refund, RefundRequest, Status
from signer.ports.meter import NO_METER, Meter, Meters
from signer.refunds.acceptance import AcceptedRefund, SubmittedRequest
from signer.refunds.service import SILENCE_SECONDS, WORKER_SECONDS
from tests.fixtures.ledger import refund_page
from tests.support.approvals import rule, ruled
from tests.support.audit import of_refunds
from tests.support.devices import honest, recording, signer_over
from tests.support.refunds import ACTOR, KEY, REQUEST, World, altered, watched


def _recording(world: World, waits: list[float]) -> Callable[[float], None]:
    """Return a function that adds its argument to *waits* and advances the clock."""

    def work(seconds: float) -> None:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)

    return work


def test_the_record_of_an_acceptance_has_the_whole_row(world: World) -> None:
    """A restored ledger creates the refund again from the log, without its reason."""
    audit, events = recording()
    service = world.service_over(world.store, audit)
    refund = service.submit(
        tenant="gateway",
        idempotency_key="key-1",
        request=replace(REQUEST, reason="free text"),
        actor=ACTOR,
    ).refund
    details = dict(events[0]["details"])

    created_at = datetime.fromisoformat(details.pop("created_at"))
    again = Refund(
        id=details.pop("refund_id"),
        token=details.pop("token_symbol"),
        amount=parse_units(details.pop("amount"), details["decimals"]),
        created_at=created_at,
        updated_at=created_at,
        state=PaymentState.QUEUED,
        reason=None,
        **details,
    )

    assert again == replace(refund, reason=None, due_at=again.moving.due_at)
    assert of_refunds(events) == [
        ("refund-accept-succeeded", ACTOR.name, "req-1", refund.id)
    ]


def test_a_repeated_request_gets_the_refund_as_it_is(world: World) -> None:
    """Nothing is sent again (R1)."""
    first = world.submit().refund
    repeated = [world.submit() for _ in range(3)]
    world.settle()
    late = world.submit()

    assert repeated == [AcceptedRefund(first, created=False)] * 3
    assert (late.created, late.refund) == (False, world.stored(first))
    assert late.refund.status is Status.CONFIRMED
    assert len(world.chain.broadcasts) == 1


def test_twenty_concurrent_requests_create_one_refund(world: World) -> None:
    """One creates it; the others get the same refund (R1)."""
    together = Barrier(20)

    def submit(_: int) -> AcceptedRefund:
        together.wait()
        return world.submit()

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(submit, range(20)))

    assert sum(one.created for one in found) == 1
    assert len({one.refund.id for one in found}) == 1
    assert len(refund_page(world.store, "gateway").refunds) == 1
    # Each waiting request works here, so two may send the same bytes.
    assert len(set(world.chain.broadcasts)) == 1


def test_an_idempotency_key_never_expires(world: World) -> None:
    """A payment cannot be undone, so its key is not reused (R3)."""
    first = world.submit().refund
    world.clock.advance(days=31)

    with pytest.raises(IdempotencyMismatchError):
        world.submit(replace(REQUEST, reference="another"))
    world.change_token(max_amount="1")  # It was accepted, and stays so.
    assert world.submit() == AcceptedRefund(first, created=False)
    with pytest.raises(PolicyViolationError):
        world.submit(replace(REQUEST, amount="13"))
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

    assert refund_page(world.store, "gateway").refunds == ()
    assert world.submit().created


@pytest.mark.parametrize(
    ("method", "error", "status"),
    [
        ("estimate_gas", ChainUnavailableError("gone"), Status.QUEUED),
        ("pending_count", ChainUnavailableError("gone"), Status.QUEUED),
        ("fees", ChainUnavailableError("gone"), Status.QUEUED),
        ("broadcast", ChainUnavailableError("gone"), Status.SIGNED),
        ("broadcast", BroadcastRejectedError("gone", reason="other"), Status.SIGNED),
    ],
)
def test_a_failure_after_acceptance_is_not_an_error(
    world: World, method: str, error: HotWalletError, status: Status
) -> None:
    """The refund waits."""
    world.chain.fail(method, error)

    submission = world.submit()

    refund = submission.refund
    assert submission.created
    assert refund == world.stored(refund)
    assert world.blocked(refund) == (status, error.code)
    assert refund.moving.attempts == 1
    world.work()
    assert world.stored(refund).status is Status.BROADCAST


def test_accepting_asks_neither_nodes_nor_the_device(world: World) -> None:
    """An accepted refund is a row: a worker that starts later sends it (R5)."""
    device = honest(KEY)
    world.signer = signer_over(device)

    def submit() -> AcceptedRefund:
        return world.service.submit(
            tenant="gateway", idempotency_key="key-1", request=REQUEST, actor=ACTOR
        )

    submission = submit()

    assert submission.refund.status is Status.QUEUED
    assert submission.refund == world.stored(submission.refund)
    assert (device.calls, dict(world.chain.calls)) == (0, {})
    assert submit() == AcceptedRefund(submission.refund, created=False)
    assert world.worker.work() == 3
    assert world.stored(submission.refund).status is Status.BROADCAST


@pytest.mark.parametrize(
    ("steps", "calls"), [(1, 3), (2, 2), (3, 1)], ids=["accepted", "reserved", "signed"]
)
def test_a_request_waits_until_its_refund_is_sent(
    world: World, steps: int, calls: int
) -> None:
    """A refund that a worker is sending is waited for, in every unsent status."""
    refund = world.accepted()
    for _ in range(steps - 1):
        refund = world.step(refund)
    waits = []

    def work(seconds: float) -> None:
        waits.append(seconds)
        world.clock.advance(milliseconds=500)
        world.step(world.stored(refund))

    sent = world.service_beside(work).await_broadcast(refund)

    assert sent == world.stored(refund)
    assert sent.status is Status.BROADCAST
    assert waits == [WORKER_SECONDS - number / 2 for number in range(calls)]


@pytest.mark.parametrize("code", ["chain-unavailable", "broadcast-rejected"])
def test_a_request_does_not_wait_for_a_retry(world: World, code: str) -> None:
    """``blocked_by`` says that a worker tried and why it failed."""
    refund = world.step(world.accepted())
    error = {
        "chain-unavailable": ChainUnavailableError("gone"),
        "broadcast-rejected": BroadcastRejectedError("gone", reason="other"),
    }[code]
    waits = []

    def work(seconds: float) -> None:
        waits.append(seconds)
        world.lifecycle.postpone([(world.found(0), error)])

    tried = world.service_beside(work).await_broadcast(refund)

    assert len(waits) == 1
    assert tried == world.stored(refund)
    assert (tried.status, tried.moving.blocked_by) == (Status.RESERVED, code)


@pytest.mark.parametrize(
    "get", [StoreUnavailableError("gone"), lambda refund_id: None], ids=["gone", "lost"]
)
def test_a_ledger_that_fails_after_acceptance_is_not_an_error(
    world: World, get: Any
) -> None:
    """The response has the last known state; the ledger may be restored meanwhile."""
    service = world.service_beside(lambda seconds: world.clock.advance(seconds=seconds))
    service._store = altered(service._store, get=get)

    submission = world.submit(service=service)

    assert (submission.created, submission.refund.status) == (True, Status.QUEUED)


def test_a_request_waits_three_seconds_for_the_worker(world: World) -> None:
    """Without a worker, the response has the accepted refund, which is still due."""
    begun = world.clock()
    waits = []

    def work(seconds: float) -> None:
        waits.append(seconds)
        world.clock.advance(seconds=1)

    submission = world.submit(service=world.service_beside(work))

    refund = submission.refund
    assert waits == [3, 2, 1]
    assert world.clock() - begun == timedelta(seconds=WORKER_SECONDS)
    assert refund.status is Status.QUEUED
    assert refund == world.stored(refund)
    assert (refund.moving.blocked_by, refund.version) == (None, 0)
    assert world.worker.work() == 3


def test_requests_do_not_wait_for_workers_that_are_silent(world: World) -> None:
    """After one request waited in vain, the next ones are answered at once for 10 s."""
    waits: list[float] = []
    service = world.service_beside(_recording(world, waits))
    refunds = [world.accepted() for _ in range(4)]
    for refund in refunds[:3]:
        service.await_broadcast(refund)
    waited = len(waits)
    world.clock.advance(seconds=SILENCE_SECONDS)
    service.await_broadcast(refunds[3])

    assert (waited, len(waits)) == (1, 2)


def test_cancellations_do_not_wait_for_workers_that_are_silent(world: World) -> None:
    """They would hold the threads as well, each for three seconds."""
    waits: list[float] = []
    service = world.service_beside(_recording(world, waits))
    refunds = [world.accepted() for _ in range(3)]
    for refund in refunds:
        asked = service.request_cancellation("gateway", refund.id, ACTOR)
        assert asked.cancel_requested_at is not None
        assert service.await_cancellation(asked) == world.stored(refund)
    service.await_broadcast(refunds[0])

    assert waits == [WORKER_SECONDS]
    assert len(world.store.cancellation_requests(10)) == 3


def test_a_refund_that_was_tried_before_shows_no_silence(world: World) -> None:
    """A repeated request for a sent refund must not end the waiting of others."""
    waits: list[float] = []
    service = world.service_beside(_recording(world, waits))
    sent = world.broadcast()

    assert service.await_broadcast(sent) == sent
    service.await_broadcast(world.accepted())

    assert waits == [WORKER_SECONDS]


@pytest.mark.parametrize(("seconds", "waited"), [(0, 0), (3, 3), (3600, 20)])
def test_waiting_ends_after_the_requested_time(
    world: World, seconds: int, waited: int
) -> None:
    """After 20 s at most, the refund is returned as it is."""
    refund = world.submit().refund
    begun = world.clock()
    service = world.service_beside(lambda seconds: world.clock.advance(seconds=seconds))

    assert service.wait(refund, seconds) == refund
    assert world.clock() - begun == timedelta(seconds=waited)


def test_waiting_survives_an_unreachable_ledger(world: World) -> None:
    """Reading is repeated every 0.2 seconds; the last known state is returned."""
    refund = world.submit().refund
    gone: list[HotWalletError] = [StoreUnavailableError("gone")] * 2
    waits: list[float] = []

    def find_advanced(*given: Any) -> Sequence[Refund]:
        if gone:
            raise gone.pop()
        return world.store.find_advanced(*given)

    def work(seconds: float) -> None:
        waits.append(seconds)
        world.clock.advance(milliseconds=200)
        world.settle()

    store = altered(watched(world.store, work), find_advanced=find_advanced)
    service = world.service_over(store)

    assert service.wait(refund, 1).status is Status.CONFIRMED
    assert (gone, waits) == ([], [0.2, 0.2])
    gone += [StoreUnavailableError("gone")] * 9
    store = altered(store, get=StoreUnavailableError("gone"))
    assert world.service_over(store).wait(refund, 1) == refund


def test_a_refund_exists_for_its_client_only(world: World) -> None:
    """Another tenant can neither read nor cancel it."""
    refund = world.submit().refund
    queued = world.accepted()

    assert world.service.get("gateway", refund.id) == refund
    for tenant, refund_id in [("other", refund.id), ("gateway", "rf_x")]:
        with pytest.raises(NotFoundError):
            world.service.get(tenant, refund_id)
    with pytest.raises(NotFoundError):
        world.service.request_cancellation("other", queued.id, ACTOR)
    assert world.stored(queued) == queued


class _Measured(Meter):
    """Keeps what a service measures."""

    def __init__(self) -> None:
        self.accepted_ids: list[str] = []
        self.traces: list[str | None] = []
        self.refusals: list[str] = []
        self.decisions: list[tuple[str, str, str]] = []

    def decided(self, path: str, verdict: Verdict, rule: str) -> None:
        self.decisions.append((path, verdict, rule))

    def accepted(self, refund: Refund, seconds: float, trace: str | None) -> None:
        assert seconds >= 0
        self.accepted_ids.append(refund.id)
        self.traces.append(trace)

    def refused(self, error: HotWalletError) -> None:
        self.refusals.append(error.code)


def test_new_refunds_and_refusals_are_measured(world: World) -> None:
    """A repeated request is neither."""
    measured = _Measured()
    service = world.service_over(world.store, meter=Meters(NO_METER, measured))

    def submit(key: str, request: RefundRequest = REQUEST) -> AcceptedRefund:
        return service.submit(
            tenant="gateway",
            idempotency_key=key,
            request=request,
            actor=ACTOR,
            trace=key,
        )

    accepted = submit("first")
    submit("first")
    with pytest.raises(PolicyViolationError):
        submit("second", replace(REQUEST, reference="other", token="none"))
    world.store.begin_hold(Hold.of_tenant("gateway", world.clock(), "", "alice"))
    with pytest.raises(TenantBlockedError):
        submit("third")

    assert measured.accepted_ids == [accepted.refund.id]
    assert measured.traces == ["first"]
    assert measured.refusals == ["policy-violation", "tenant-blocked"]


def test_refusals_are_decisions_on_the_path_of_their_request(world: World) -> None:
    """A call is refused on the path ``call``, also in a batch with refunds."""
    measured = _Measured()
    service = world.service_over(world.store, meter=Meters(measured))
    call = replace(REQUEST, reference="call", token=COIN, calldata="0x")
    unknown = replace(REQUEST, reference="unknown", token="none")
    requests = {"accepted": REQUEST, "call": call, "unknown": unknown}
    results = service.submit_all(
        tenant="gateway",
        requests=[SubmittedRequest(key, each) for key, each in requests.items()],
        actor=ACTOR,
    )

    assert [type(each) for each in results[1:]] == [PolicyViolationError] * 2
    assert measured.refusals == ["policy-violation"] * 2
    assert measured.decisions == [
        ("call", "refuse", "coin"),
        ("refund", "refuse", "token"),
    ]


def test_refunds_that_wait_for_an_approval_are_measured(world: World) -> None:
    """By the rule that demands it, which may be the amount; once per refund."""
    measured = _Measured()
    world.change_token(approve_above="0.5")
    for key, policy in (
        ("first", world.policy),
        ("second", ruled(world, rule("large", 2)).policy),
    ):
        world.policy = policy
        service = world.service_over(world.store, meter=Meters(measured))
        for _ in range(2):
            refund = service.submit(
                tenant="gateway",
                idempotency_key=key,
                request=replace(REQUEST, reference=key),
                actor=ACTOR,
            ).refund
            assert refund.status is Status.AWAITING_APPROVAL

    assert measured.decisions == [
        ("refund", "needs-approval", "approve-above"),
        ("refund", "needs-approval", "large"),
    ]


def test_an_unreachable_store_is_an_error(world: World) -> None:
    """It is unknown whether the refund was accepted; the same key finds out."""
    store = altered(world.store, accept_all=StoreUnavailableError("gone"))
    service = world.service_over(store)

    with pytest.raises(StoreUnavailableError):
        world.submit(service=service)
    assert world.submit().created
