"""What the gateway can ask for, and what it can rely on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier

import pytest
from structlog.testing import capture_logs

from signer.config.networks import Network
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
from signer.refunds.service import ANSWERED_WITHIN, RefundService, Submission
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.refunds import CUSTOMER, KEY, NETWORK, REQUEST, World, altered


def _submit(
    world: World,
    request: RefundRequest = REQUEST,
    key: str = "key-1",
    client: str = "gateway",
    service: RefundService | None = None,
) -> Submission:
    return (service or world.service).submit(
        client=client, idempotency_key=key, request=request, request_id="req-1"
    )


def _overtaken(world: World, store: Ledger | None = None) -> RefundService:
    """Return a service whose every step a worker has just taken."""

    def step(refund: Refund, actor: Actor) -> Refund:
        world.lifecycle.step(refund, actor)
        return world.lifecycle.step(refund, actor)

    service = world.service
    service._store = store or world.store
    service._lifecycle = altered(world.lifecycle, step=step)
    return service


def _gone(refund_id: str) -> Refund | None:
    raise StoreUnavailableError("gone")


def test_a_refund_is_accepted_and_sent(world: World) -> None:
    """The answer to the first request has the hash, and the node has the bytes."""
    submission = _submit(world)
    refund = submission.refund

    assert submission == Submission(refund, created=True, answer=None)
    assert refund == world.stored(refund)
    assert refund.status is Status.BROADCAST
    assert refund.tx_hash in world.chain.pool
    assert (refund.client, refund.idempotency_key) == ("gateway", "key-1")


def test_the_audit_log_names_who_asked(world: World) -> None:
    """The signature is made on behalf of the client, for its request."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)

    _submit(world)

    assert {(event["actor"], event["request_id"]) for event in events} == {
        ("gateway", "req-1")
    }


def test_asking_again_replays_the_answer(world: World) -> None:
    """The same key and request get the same answer, and send nothing (R1)."""
    first = _submit(world).refund
    answer = world.service.answered(first, "body")

    for _ in range(3):
        again = _submit(world)

        assert again == Submission(first, created=False, answer="body")
    assert answer == "body"
    assert len(world.chain.broadcasts) == 1


def test_the_first_answer_stands(world: World) -> None:
    """Two who answer one request give the same answer (R1)."""
    refund = _submit(world).refund

    assert world.service.answered(refund, "first") == "first"
    assert world.service.answered(refund, "second") == "first"


def test_twenty_who_ask_at_once_are_one_refund(world: World) -> None:
    """One creates it; the others are told to ask again, or replay it (R1)."""
    together = Barrier(20)

    def ask(_: int) -> Submission | InProgressError:
        together.wait()
        try:
            return _submit(world)
        except InProgressError as e:
            return e

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(ask, range(20)))

    created = [one for one in found if isinstance(one, Submission)]
    assert [one.created for one in created] == [True]
    assert len(world.service.list("gateway").refunds) == 1
    assert len(world.chain.broadcasts) == 1


def test_a_request_that_is_being_answered_is_not_answered_twice(world: World) -> None:
    """For ten seconds whoever asks again is told to do so later (R1)."""
    first = _submit(world).refund
    world.clock.now += ANSWERED_WITHIN - timedelta(milliseconds=1)

    with pytest.raises(InProgressError):
        _submit(world)
    world.clock.advance(milliseconds=1)

    assert _submit(world) == Submission(first, created=False, answer=None)


@pytest.mark.parametrize("age", [timedelta(hours=25), timedelta(days=31)])
def test_a_key_never_expires(world: World, age: timedelta) -> None:
    """A payout cannot be undone, so that its key is never for something else (R3)."""
    first = _submit(world).refund
    world.service.answered(first, "body")
    world.clock.now += age

    assert _submit(world).answer == "body"
    with pytest.raises(IdempotencyMismatchError):
        _submit(world, replace(REQUEST, reference="another"))
    assert len(world.chain.broadcasts) == 1


def test_a_key_is_for_one_request(world: World) -> None:
    """Another request under the same key is refused, and nothing is sent (R2)."""
    _submit(world)

    with pytest.raises(IdempotencyMismatchError):
        _submit(world, replace(REQUEST, amount="12.51"))
    assert len(world.chain.broadcasts) == 1


def test_a_reference_is_paid_once(world: World) -> None:
    """Another key for the same reference is refused (R4)."""
    _submit(world)

    with pytest.raises(ConflictError):
        _submit(world, key="key-2")
    assert len(world.chain.broadcasts) == 1


def test_clients_have_keys_of_their_own(world: World) -> None:
    """Two clients may use the same key, and the same reference."""
    _submit(world)

    assert _submit(world, client="other").created


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (replace(REQUEST, amount="0"), InvalidInputError),
        (replace(REQUEST, recipient="0x"), InvalidInputError),
        (replace(REQUEST, network="mars"), PolicyViolationError),
        (replace(REQUEST, amount="1000.5"), PolicyViolationError),
    ],
)
def test_what_is_refused_is_not_stored(
    world: World, request_: RefundRequest, error: type[HotWalletError]
) -> None:
    """Neither the key nor the reference is used up by a mistake."""
    with pytest.raises(error):
        _submit(world, request_)

    assert world.service.list("gateway").refunds == ()
    assert _submit(world).created


def _stricter(network: Network) -> Network:
    token = network.tokens["TUSD"].model_copy(update={"max_amount": "1"})
    return network.model_copy(update={"tokens": {"TUSD": token}})


def test_what_was_accepted_stays_accepted(world: World) -> None:
    """A limit that was lowered meanwhile does not turn a replay into an error (R3)."""
    first = _submit(world).refund
    world.service.answered(first, "body")
    world.network = _stricter(NETWORK)

    assert _submit(world) == Submission(first, created=False, answer="body")
    with pytest.raises(PolicyViolationError):
        _submit(world, replace(REQUEST, amount="13"))


def test_an_accepted_key_with_nonsense_is_still_nonsense(world: World) -> None:
    """A malformed request is refused as such, whatever its key was used for."""
    _submit(world)

    with pytest.raises(InvalidInputError):
        _submit(world, replace(REQUEST, amount="-1"))


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
def test_trouble_behind_the_acceptance_is_no_error(
    world: World, method: str, error: HotWalletError, status: Status
) -> None:
    """The refund is accepted, waits where it is, and is logged without details."""
    world.chain.fail(method, error)

    with capture_logs() as logs:
        submission = _submit(world)

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


def test_a_device_that_is_gone_delays_the_refund(world: World) -> None:
    """The nonce is kept, and the worker signs when the device is back (K2)."""
    world.signer = signer_over(planted(point(KEY), BackendUnavailableError("gone")))

    refund = _submit(world).refund

    assert refund.status is Status.RESERVED
    assert refund.nonce == 0


def test_a_step_that_waits_for_the_chain_ends_the_request(world: World) -> None:
    """A nonce that somebody has used is found out about by workers, not by waiting."""
    stuck = altered(world.lifecycle, step=lambda refund, actor: refund)
    service = world.service
    service._lifecycle = stuck

    submission = _submit(world, service=service)

    assert submission.created
    assert submission.refund.status is Status.QUEUED
    assert submission.refund == world.stored(submission.refund)


def test_a_worker_may_be_faster(world: World) -> None:
    """When somebody else took the step, the answer is what the store says (R6)."""
    submission = _submit(world, service=_overtaken(world))

    assert submission.created
    assert submission.refund.status is Status.RESERVED
    assert submission.refund == world.stored(submission.refund)


def test_a_ledger_that_goes_away_takes_no_acceptance_back(world: World) -> None:
    """Who was overtaken and cannot look again answers what it knows: accepted."""
    service = _overtaken(world, altered(world.store, get=_gone))

    submission = _submit(world, service=service)

    assert (submission.created, submission.refund.status) == (True, Status.QUEUED)


def test_a_refund_that_cannot_be_put_back_is_reread(world: World) -> None:
    """Whoever cannot leave it to the workers answers as the store has it."""

    def postpone(refund: Refund, trouble: HotWalletError | None = None) -> Refund:
        raise StoreUnavailableError("gone")

    service = world.service
    service._lifecycle = altered(world.lifecycle, postpone=postpone)
    world.chain.fail("broadcast", ChainUnavailableError("gone"))

    submission = _submit(world, service=service)

    assert submission.created
    assert submission.refund.status is Status.SIGNED
    assert submission.refund == world.stored(submission.refund)


def test_a_request_does_not_send_for_ever(world: World) -> None:
    """After five seconds the rest is left to workers, who may begin at once."""
    readings = iter([100.0, 100.0, 104.9, 105.0])
    service = world.service
    service._timer = lambda: next(readings)

    submission = _submit(world, service=service)

    refund = submission.refund
    assert refund.status is Status.SIGNED
    assert refund == world.stored(refund)
    assert (refund.due_at, refund.blocked_by) == (world.clock(), None)
    assert world.worker.work() == 1


def test_a_store_that_is_gone_is_an_error(world: World) -> None:
    """Whether the refund was accepted is unknown, and the same key finds out."""

    def accept(refund: Refund) -> tuple[Refund, bool]:
        raise StoreUnavailableError("gone")

    service = world.service
    service._store = altered(world.store, accept=accept)

    with pytest.raises(StoreUnavailableError):
        _submit(world, service=service)
    assert _submit(world).created


def test_waiting_ends_with_the_refund(world: World) -> None:
    """A refund that is confirmed meanwhile is returned at once."""
    refund = _submit(world).refund
    begun = world.clock()

    def sleep(seconds: float) -> None:
        world.clock.advance(seconds=seconds)
        if world.clock() - begun >= timedelta(seconds=1):
            world.chain.mine()
            world.chain.mine_empty(2)
            world.tracker.track()

    service = world.service
    service._sleep = sleep

    confirmed = service.wait(refund, 10)

    assert confirmed == world.stored(refund)
    assert confirmed.status is Status.CONFIRMED
    assert world.clock() - begun < timedelta(seconds=2)


@pytest.mark.parametrize(("asked", "waited"), [(0, 0), (3, 3), (3600, 20)])
def test_waiting_ends_with_patience(world: World, asked: int, waited: int) -> None:
    """As long as was asked, 20 s at most; the refund is then as it is."""
    refund = _submit(world).refund
    begun = world.clock()

    assert world.service.wait(refund, asked) == refund
    assert abs(world.clock() - begun - timedelta(seconds=waited)) < timedelta(
        seconds=0.3
    )


def test_waiting_survives_a_ledger_that_is_gone(world: World) -> None:
    """It is looked for again, and meanwhile known as it was."""
    refund = _submit(world).refund
    service = world.service
    service._store = altered(world.store, get=_gone)

    assert service.wait(refund, 1) == refund


def test_a_queued_refund_can_be_cancelled(world: World) -> None:
    """Nothing was spent on it, and nothing will be; again is fine (R26)."""
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


def _nothing(world: World, refund: Refund) -> None:
    pass


def _mined(world: World, refund: Refund) -> None:
    world.mine_deep()
    world.tracker.track()
    world.tracker.track()


@pytest.mark.parametrize(
    ("steps", "then"), [(1, _nothing), (2, _nothing), (3, _nothing), (3, _mined)]
)
def test_a_refund_with_a_nonce_cannot_be_cancelled(
    world: World, steps: int, then: Callable[[World, Refund], None]
) -> None:
    """It is on its way, or at its end, and stays as it is (R26)."""
    refund = world.step(world.accepted(), times=steps)
    then(world, refund)
    before = world.stored(refund)

    with pytest.raises(NotCancellableError, match=str(before.status)):
        world.service.cancel("gateway", refund.id)
    assert world.stored(refund) == before


def test_a_cancellation_that_comes_late_changes_nothing(world: World) -> None:
    """A reservation between its look and its move wins (R26)."""
    refund = world.accepted()

    def get(refund_id: str) -> Refund | None:
        world.step(refund)
        return refund

    service = world.service
    service._store = altered(world.store, get=get)

    with pytest.raises(StaleStateError):
        service.cancel("gateway", refund.id)
    assert world.stored(refund).status is Status.RESERVED


def test_what_a_restored_ledger_forgot_is_not_cancelled(
    world: World, empty: Callable[[], Ledger]
) -> None:
    """Its client is told that it is paid, not to pay it elsewhere (R24, R26)."""
    _submit(world)
    world.mine_deep()
    world.store = empty()
    again = world.accepted(reference=REQUEST.reference)

    with pytest.raises(WalletPausedError):
        world.service.cancel("gateway", again.id)
    waiting = world.stored(again)
    world.watched()
    with pytest.raises(NotCancellableError, match="mined"):
        world.service.cancel("gateway", again.id)

    assert waiting == again
    assert world.stored(again).status is Status.MINED


def test_a_silent_chain_cancels_nothing(world: World) -> None:
    """Whether the refund is paid is not known at the moment (R26)."""
    refund = world.accepted()
    world.chain.fail("pending_count", ChainUnavailableError("gone"))

    with pytest.raises(ChainUnavailableError):
        world.service.cancel("gateway", refund.id)
    assert world.stored(refund) == refund


def test_a_reservation_that_comes_late_sends_nothing(world: World) -> None:
    """A cancellation between the worker's look and its reservation wins (R26)."""
    refund = world.accepted()
    world.service.cancel("gateway", refund.id)

    with pytest.raises(StaleStateError):
        world.step(refund)
    assert world.stored(refund).nonce is None
    assert world.step(world.accepted()).nonce == 0


def test_somebody_elses_refund_cannot_be_cancelled(world: World) -> None:
    """It is not even there."""
    refund = world.accepted()

    with pytest.raises(NotFoundError):
        world.service.cancel("other", refund.id)
    assert world.stored(refund) == refund


def test_a_refund_is_shown_to_its_client_only(world: World) -> None:
    """Another client's refund is not there."""
    refund = _submit(world).refund

    assert world.service.get("gateway", refund.id) == refund
    for client, refund_id in [("other", refund.id), ("gateway", "rf_x")]:
        with pytest.raises(NotFoundError):
            world.service.get(client, refund_id)


def test_refunds_are_listed_by_client_session_and_status(world: World) -> None:
    """Filters and pages are the store's."""
    first = _submit(world).refund
    other = replace(REQUEST, reference="2", payment_session_id="session-2")
    second = _submit(world, other, key="key-2").refund
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


def test_a_submitted_refund_is_paid(world: World) -> None:
    """From the request to the event: once, the right amount, to the customer."""
    refund = _submit(world).refund
    world.mine_deep()

    world.worker.work()
    world.worker.work()

    assert world.service.get("gateway", refund.id).status is Status.CONFIRMED
    assert world.chain.payouts() == [(CUSTOMER, 12_500_000)]
