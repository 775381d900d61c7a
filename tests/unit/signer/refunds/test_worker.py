"""The worker: passes, claims, failures and wallet checks."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

import coincurve
import pytest
from structlog.testing import capture_logs

from signer.chain.chain import Chain
from signer.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    BroadcastRejectedError,
    ChainUnavailableError,
    HotWalletError,
    StoreUnavailableError,
)
from signer.model.key import KeyState
from signer.model.refund import HOLD, Refund, Status
from signer.model.wallet import Pause
from signer.ports import Ledger
from signer.refunds.worker import Worker
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import (
    ACTOR,
    AMOUNT,
    CUSTOMER,
    KEY,
    World,
    altered,
    watched,
)
from tests.support.waiting import eventually


def _statuses(world: World, refunds: Sequence[Refund]) -> list[Status]:
    return [world.stored(refund).status for refund in refunds]


def test_a_pass_takes_each_refund_as_far_as_it_goes(world: World) -> None:
    """Queued refunds are broadcast in one pass, and confirmed when final."""
    refunds = [world.accepted() for _ in range(3)]

    assert world.work() == 9
    assert _statuses(world, refunds) == [Status.BROADCAST] * 3
    assert world.worker.work() == 0

    world.chain.mine()
    assert world.worker.work() == 3
    assert _statuses(world, refunds) == [Status.MINED] * 3

    world.chain.mine_empty(2)
    assert world.worker.work() == 3
    assert _statuses(world, refunds) == [Status.CONFIRMED] * 3
    assert world.worker.work() == 0
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 3


def test_the_worker_signs_in_its_own_name(world: World) -> None:
    """The audit log distinguishes a worker's signature from a request's."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)
    world.accepted()

    world.work()

    assert {event["actor"] for event in events} == {"worker"}
    assert {event["request_id"] for event in events} == {None}


def test_an_accepted_refund_is_claimed_at_once(world: World) -> None:
    """Only workers send: no request has a claim."""
    refund = world.accepted()

    assert world.worker.work() == 3
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_refund_of_another_worker_is_not_claimed(world: World) -> None:
    """That worker has the claim until it expires (R6)."""
    refund = world.accepted()
    world.store.claim(world.clock(), world.clock() + HOLD, 1)

    assert world.work(after=HOLD - timedelta(milliseconds=1)) == 0
    assert world.work(after=timedelta(milliseconds=1)) == 3
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_refund_is_claimed_by_one_worker(world: World) -> None:
    """Of two concurrent workers, the second claims nothing (R6)."""
    refunds = [world.accepted() for _ in range(3)]
    other = []

    def step(refund: Refund) -> Refund:
        other.append(world.worker.work())
        return world.lifecycle.step(refund)

    world.clock.now += HOLD

    assert world.worker_with(altered(world.lifecycle, step=step)).work() == 9
    assert set(other) == {0}
    assert _statuses(world, refunds) == [Status.BROADCAST] * 3
    assert len(world.chain.broadcasts) == 3


def test_a_worker_whose_claim_expired_changes_nothing(world: World) -> None:
    """Its step is stale, and moves no money (R6)."""
    refund = world.accepted()

    def step(claimed: Refund) -> Refund:
        world.work()
        return world.lifecycle.step(claimed)

    world.clock.now += HOLD

    with capture_logs() as logs:
        steps = world.worker_with(altered(world.lifecycle, step=step)).work()

    assert steps == 0
    assert logs == []
    assert _statuses(world, [refund]) == [Status.BROADCAST]
    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_failing_refund_does_not_stop_others(world: World) -> None:
    """It is logged by code and postponed (R13)."""
    refunds = [world.accepted() for _ in range(3)]
    world.chain.fail("broadcast", BroadcastRejectedError("u:p@node", reason="other"))

    with capture_logs() as logs:
        steps = world.work()

    assert steps == 8
    assert _statuses(world, refunds) == [
        Status.SIGNED,
        Status.BROADCAST,
        Status.BROADCAST,
    ]
    assert logs == [
        {
            "event": "refund-delayed",
            "log_level": "warning",
            "refund_id": refunds[0].id,
            "status": "signed",
            "code": "broadcast-rejected",
            "attempts": 1,
        }
    ]
    delayed = world.stored(refunds[0])
    assert (delayed.attempts, delayed.blocked_by) == (1, "broadcast-rejected")
    assert delayed.due_at == world.clock() + timedelta(seconds=1)


def test_an_unreachable_network_is_asked_once_per_pass(world: World) -> None:
    """Its other refunds are postponed without a time-out each (R13)."""
    refunds = [world.accepted() for _ in range(3)]
    world.chain.fail("estimate_gas", ChainUnavailableError("gone"))

    with capture_logs() as logs:
        steps = world.work()

    assert steps == 0
    assert world.chain.calls["estimate_gas"] == 1
    assert {entry["code"] for entry in logs} == {"chain-unavailable"}
    assert [world.stored(refund).blocked_by for refund in refunds] == [
        "chain-unavailable"
    ] * 3
    assert world.work() == 9


def test_an_unreachable_network_does_not_stop_others(world: World) -> None:
    """Refunds of networks that answer go on."""
    silent, good = world.on_network("silent", world.accepted()), world.accepted()
    unreachable = altered(world.chain, estimate_gas=ChainUnavailableError("gone"))
    chains = {**world.chains, "silent": Chain(world.network, unreachable)}
    lifecycle = world.lifecycle
    lifecycle._chains = chains
    world.clock.now += HOLD

    assert world.worker_with(lifecycle, **chains).work() == 3
    assert _statuses(world, [silent, good]) == [Status.QUEUED, Status.BROADCAST]
    assert world.stored(silent).blocked_by == "chain-unavailable"


def test_an_unreachable_device_is_asked_once_per_pass(world: World) -> None:
    """Refunds of all networks that need it wait, with their nonces (R13)."""
    refunds = [world.step(world.accepted()) for _ in range(3)]
    device = planted(point(KEY), BackendUnavailableError("gone"))
    world.signer = signer_over(device)

    steps = world.work()

    assert steps == 0
    assert device.calls == 1
    assert [world.stored(refund).blocked_by for refund in refunds] == [
        "backend-unavailable"
    ] * 3
    world.signer = signer_over(honest(KEY))
    assert world.work() == 6
    assert [world.stored(refund).nonce for refund in refunds] == [0, 1, 2]


@pytest.mark.parametrize(
    "trouble", [BackendUnavailableError("gone"), AccessDeniedError("denied")]
)
def test_an_unreachable_device_does_not_stop_other_keys(
    world: World, trouble: BackendError
) -> None:
    """A former key's region is down, and the active key's refunds continue (O4)."""
    formers = [world.step(world.accepted()) for _ in range(2)]
    device = planted(point(KEY), trouble)
    world.signer = signer_over(device)
    world.rotate()
    following = world.accepted()

    world.work()

    assert device.calls == 1
    assert _statuses(world, [*formers, following]) == [
        Status.RESERVED,
        Status.RESERVED,
        Status.BROADCAST,
    ]


def test_a_top_up_drains_the_queue(world: World) -> None:
    """The refund with the lowest nonce waits for it (R13)."""
    head = world.step(world.accepted())
    following = world.accepted()
    world.chain.balance_left = 0
    world.chain.revert = "balance too low"
    for _ in range(5):
        world.work(after=timedelta(seconds=31))
    waiting = world.stored(head)

    world.chain.balance_left = AMOUNT * 2
    world.chain.revert = None
    world.work(after=timedelta(seconds=31))
    world.chain.mine()

    assert (waiting.status, waiting.blocked_by, waiting.attempts) == (
        Status.RESERVED,
        "insufficient-funds",
        5,
    )
    assert world.store.transactions(head.id)[0].kind == "transfer"
    assert [world.stored(refund).nonce for refund in (head, following)] == [0, 1]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_rejections_are_retried_with_a_growing_delay(world: World) -> None:
    """It doubles to 30 s: 10 tries in four minutes (R11)."""
    world.accepted()
    errors = [BroadcastRejectedError("no", reason="insufficient-funds")] * 100
    world.chain.fail("broadcast", *errors)
    world.clock.now += HOLD

    for _ in range(240):
        world.work(after=timedelta(seconds=1))

    assert 8 <= world.chain.calls["broadcast"] <= 14


def test_an_unexpected_exception_does_not_stop_other_refunds(world: World) -> None:
    """It is logged by its type."""
    unlucky, *others = [world.accepted() for _ in range(3)]

    def step(refund: Refund) -> Refund:
        if refund.id == unlucky.id:
            raise ZeroDivisionError("secret 1234")
        return world.lifecycle.step(refund)

    world.clock.now += HOLD

    with capture_logs() as logs:
        steps = world.worker_with(altered(world.lifecycle, step=step)).work()

    assert steps == 6
    assert _statuses(world, [unlucky]) == [Status.QUEUED]
    assert _statuses(world, others) == [Status.BROADCAST] * 2
    assert [(entry["event"], entry["refund_id"], entry["error"]) for entry in logs] == [
        ("refund-stuck", unlucky.id, "ZeroDivisionError")
    ]
    assert "1234" not in str(logs)


def test_every_refund_has_its_turn(world: World) -> None:
    """A pass claims until there are no more due refunds."""
    refunds = [world.accepted() for _ in range(25)]
    claims: list[int] = []

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        claimed = store.claim(now, until, limit)
        claims.append(len(claimed))
        return claimed

    store, world.store = world.store, altered(world.store, claim=claim)

    assert world.work() == 75
    assert claims == [10, 10, 5]
    assert _statuses(world, refunds) == [Status.BROADCAST] * 25


def test_a_flood_does_not_delay_tracking(world: World) -> None:
    """A pass ends after a hundred refunds, and the next one tracks first."""
    one = world.accepted()
    claims: list[tuple[timedelta, int]] = []

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        claims.append((until - now, limit))
        return [world.stored(one)] * limit

    world.store = altered(world.store, claim=claim, find_untouched=lambda now: None)
    idle = altered(world.lifecycle, step=lambda refund: refund)

    assert world.worker_with(idle).work() == 100
    assert claims == [(HOLD, 10)] * 10


def test_an_idle_pass_makes_no_requests(world: World) -> None:
    """Without open refunds, only the wallet check uses the nodes."""
    refund = world.broadcast()
    world.mine_deep()
    world.confirmation_tracker.track()
    assert world.tracked(refund).status is Status.CONFIRMED
    worker = world.worker
    worker.work()
    world.chain.calls.clear()

    for _ in range(4):
        assert worker.work() == 0

    assert world.chain.calls == {}


def test_wallets_are_checked_every_fifth_pass(world: World) -> None:
    """A foreign transaction is found without a new refund (R23)."""
    world.broadcast()
    worker = world.worker
    worker.work()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_foreign(world.signer.address)
    pauses = []
    for _ in range(5):
        worker.work()
        pauses.append(world.wallet.paused_by)

    assert pauses == [None, None, None, None, Pause.CHAIN_AHEAD]


def test_a_paused_wallet_pays_after_an_operator_resumes_it(world: World) -> None:
    """Refunds wait with the error code, and are paid once (R23)."""
    paid = world.broadcast()
    world.chain.mine()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(2)
    refund = world.accepted()
    world.work()
    waiting = world.stored(refund)

    chain = world.chains["local"]
    address = world.signer.address
    world.wallets.resume(world.wallets.status(chain, address), chain)
    world.work()
    world.mine_deep()
    world.worker.work()
    world.worker.work()

    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "wallet-paused")
    assert _statuses(world, [paid, refund]) == [Status.CONFIRMED] * 2
    assert world.stored(refund).nonce == 2
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


@pytest.mark.parametrize(
    "error", [ChainUnavailableError("u:p@node"), StoreUnavailableError("u:p@db")]
)
def test_a_failed_wallet_check_does_not_stop_the_pass(
    world: World, error: HotWalletError
) -> None:
    """Network and code are logged."""
    refund = world.accepted()

    worker = world.worker
    worker._wallets = altered(world.wallets, reconcile=error)
    world.clock.now += HOLD

    with capture_logs() as logs:
        assert worker.work() == 3

    assert logs == [
        {
            "event": "wallet-check-failed",
            "log_level": "warning",
            "network": "local",
            "code": error.code,
        }
    ]
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_refund_that_cannot_be_postponed_stays_claimed(world: World) -> None:
    """The claim expires by itself."""
    refund = world.accepted()
    world.store.claim(world.clock(), world.clock(), 1)  # Another worker had it before.
    world.chain.fail("estimate_gas", ChainUnavailableError("gone"))
    world.clock.now += HOLD

    with capture_logs() as logs:
        world.worker_with(
            altered(world.lifecycle, postpone=StoreUnavailableError("gone"))
        ).work()

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("refund-delayed", "chain-unavailable"),
        ("refund-held", "store-unavailable"),
    ]
    assert world.worker.work() == 0
    assert world.work() == 3
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def _waiting(world: World, wait: Callable[[float], bool]) -> Worker:
    """Return a worker on the world's clock that calls *wait* between its passes."""
    world.store = watched(world.store, wait)
    worker = world.worker
    worker._timer = lambda: world.clock().timestamp()
    return worker


def _recording(world: World, waits: list[float]) -> Callable[[float], bool]:
    """Return a wait that adds its seconds to *waits* and ends without a change."""

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        return False

    return wait


def test_a_worker_runs_until_it_is_stopped(world: World) -> None:
    """It runs a pass every interval, and asks before each wait whether to stop."""
    waits: list[float] = []
    worker = _waiting(world, _recording(world, waits))
    worker.run(lambda: len(waits) == 3, 0.5)

    assert waits == [0.5, 0.5, 0.5]
    assert worker._passes == 3


def test_a_worker_that_is_stopped_ends_after_its_pass(world: World) -> None:
    """``hotwallet worker --once`` makes one pass."""
    refund = world.accepted()

    _waiting(world, lambda _: pytest.fail("it waited")).run(lambda: True, 3600)

    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_worker_is_stopped_while_it_waits(world: World) -> None:
    """It checks at least every second, however long its interval is."""
    waits: list[float] = []
    worker = _waiting(world, _recording(world, waits))
    worker.run(lambda: len(waits) == 2, 3600)

    assert waits == [1, 1]
    assert worker._passes == 1


def test_accepted_refunds_are_sent_between_two_passes(world: World) -> None:
    """A change that is noticed starts no pass: wallets and tracking wait for it."""
    waits: list[float] = []
    refunds: list[Refund] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if refunds:
            assert _statuses(world, refunds) == [Status.BROADCAST] * len(refunds)
        if len(refunds) < 3:
            refunds.append(world.accepted())
            world.clock.advance(milliseconds=125)
            return True
        world.clock.advance(seconds=seconds)
        return False

    worker = _waiting(world, wait)
    worker.run(lambda: len(waits) == 4, 0.5)

    assert waits == [0.5, 0.375, 0.25, 0.125]
    assert worker._passes == 1
    assert world.chain.calls["broadcast"] == 3


def test_a_worker_survives_a_failing_database(world: World) -> None:
    """A failed pass is logged, and so is a failed start between two passes."""
    refund = world.accepted()
    troubles = [StoreUnavailableError("gone")] * 2
    waits: list[float] = []

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        if troubles:
            raise troubles.pop()
        return store.claim(now, until, limit)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return True

    store, world.store = world.store, altered(world.store, claim=claim)

    with capture_logs() as logs:
        _waiting(world, wait).run(lambda: len(waits) == 2, 0.5)

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("pass-failed", "store-unavailable")
    ] * 2
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_failing_database_does_not_spin(world: World) -> None:
    """A worker that had more to claim waits all the same when claims fail."""
    one = world.accepted()
    claims: list[bool] = []
    waits: list[float] = []

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        claims.append(len(claims) % 2 == 0)
        if claims[-1]:
            return [world.stored(one)] * limit
        world.clock.advance(milliseconds=10)  # So that the test ends.
        raise StoreUnavailableError("gone")

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        return False

    world.store = altered(
        watched(world.store, wait), claim=claim, find_untouched=lambda now: None
    )
    idle = altered(world.lifecycle, step=lambda refund: refund)
    worker = world.worker_with(idle)
    worker._timer = lambda: world.clock().timestamp()

    worker.run(lambda: len(claims) > 20 or bool(waits), 1)

    assert waits == [1.0]
    assert claims == [True, False]


@pytest.fixture
def running(world: World) -> Iterator[Callable[[Worker, float], None]]:
    """Return a function that runs a worker in a thread until the test ends."""
    stop = Event()
    with ThreadPoolExecutor() as threads:
        started: list[Future[None]] = []

        def run(worker: Worker, interval: float) -> None:
            started.append(threads.submit(worker.run, stop.is_set, interval))

        try:
            yield run
        finally:
            stop.set()
            for each in started:
                each.result(10)


def test_a_worker_wakes_up_when_another_process_accepts(
    world: World,
    tmp_path: Path,
    opened: Callable[[Path], Ledger],
    running: Callable[[Worker, float], None],
) -> None:
    """It drains the queue, on a connection of its own, long before its next pass."""
    worker = world.worker
    running(worker, 3600)
    assert eventually(lambda: worker._passes == 1, 10)
    api = World(opened(tmp_path / "0.db"), clock=world.clock, signer=world.signer)

    refunds = [api.accepted() for _ in range(25)]

    assert eventually(lambda: _statuses(world, refunds) == [Status.BROADCAST] * 25, 30)
    assert worker._passes == 1


def test_a_worker_wakes_up_when_another_process_asks_to_cancel(
    world: World,
    tmp_path: Path,
    opened: Callable[[Path], Ledger],
    running: Callable[[Worker, float], None],
) -> None:
    """A queued refund that waits for a limit is cancelled at once (R26)."""
    world.change_token(hourly_limit="12.5")
    sent, queued = world.broadcast(), world.accepted()
    worker = world.worker
    running(worker, 3600)
    assert eventually(lambda: world.stored(queued).blocked_by == "limit-reached", 10)
    api = World(opened(tmp_path / "0.db"), clock=world.clock, signer=world.signer)
    service = api.service
    service._store = api.store  # With its own watch.
    service._timer = time.monotonic

    asked = service.request_cancellation("gateway", queued.id, ACTOR)
    cancelled = service.wait(asked, 20)

    assert cancelled.status is Status.CANCELLED
    assert worker._passes == 1
    assert _statuses(world, [sent]) == [Status.BROADCAST]


def test_an_unreadable_ring_does_not_stop_the_pass(world: World) -> None:
    """No wallet is checked, and refunds are tracked."""
    refund = world.broadcast()
    world.chain.mine()
    worker = world.worker
    worker._ring = altered(world.ring, refresh=StoreUnavailableError("gone"))
    with capture_logs() as logs:
        worker.work()

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("wallet-check-failed", "store-unavailable")
    ]
    assert world.stored(refund).status is Status.MINED


def test_refunds_are_postponed_when_the_ring_becomes_unreadable(world: World) -> None:
    """Each claimed refund is postponed by itself."""
    refunds = [world.accepted() for _ in range(2)]
    world.clock.now += HOLD
    worker = world.worker
    worker._ring = altered(world.ring, cached_keys=StoreUnavailableError("gone"))
    worker.work()

    assert [world.stored(refund).blocked_by for refund in refunds] == [
        StoreUnavailableError.code
    ] * 2


def test_a_key_that_never_paid_is_retired(world: World) -> None:
    """Neither ledger nor chain has a transaction of it (O4)."""
    other = signer_over(honest(coincurve.PrivateKey.from_int(99)))
    assert world.ring.active().key.address == world.signer.address
    world.others = (other,)
    made_active(world.store, key_at(other.address))

    world.worker.work()

    active, former = world.store.keys()
    assert (active.state, former.state) == (KeyState.ACTIVE, KeyState.RETIRED)


def _asked(world: World, refund: Refund) -> Refund:
    """Return *refund* after a request to cancel it."""
    world.service.request_cancellation("gateway", refund.id, ACTOR)
    return world.stored(refund)


def test_a_request_to_cancel_precedes_the_queue(world: World) -> None:
    """A refund that is due is cancelled and not sent (R26)."""
    refunds = [world.accepted() for _ in range(3)]
    _asked(world, refunds[2])

    assert world.worker.work() == 7
    assert _statuses(world, refunds) == [
        Status.BROADCAST,
        Status.BROADCAST,
        Status.CANCELLED,
    ]


def test_a_refund_that_is_not_due_is_cancelled(world: World) -> None:
    """It does not wait for its retry, nor for the claim of a dead worker (R26)."""
    late, held = world.accepted(), world.accepted()
    world.lifecycle.postpone(late, ChainUnavailableError("gone"))
    world.store.claim(world.clock(), world.clock() + HOLD, 10)
    for refund in (late, held):
        _asked(world, refund)

    assert world.worker.advance() == 2
    assert _statuses(world, [late, held]) == [Status.CANCELLED] * 2


def test_two_workers_cancel_once(world: World) -> None:
    """The second one's step is stale, and only one record is written (R6, R26)."""
    refund = _asked(world, world.accepted())
    lifecycle = world.lifecycle
    lifecycle._audit, events = recording()

    def step(each: Refund) -> Refund:
        world.worker.advance()
        return lifecycle.step(each)

    with capture_logs() as logs:
        steps = world.worker_with(altered(lifecycle, step=step)).advance()

    assert steps == 0
    assert [entry["event"] for entry in logs] == ["refund-ended"]
    assert events == []
    assert _statuses(world, [refund]) == [Status.CANCELLED]


def test_a_failing_cancellation_is_tried_once_a_pass(world: World) -> None:
    """It is postponed like other steps, and a wake-up does not try it again (R26)."""
    refund = _asked(world, world.accepted())
    errors = [ChainUnavailableError("gone")] * 100
    world.chain.fail("pending_count", *errors)
    worker = world.worker
    worker._passes = 1  # No pass checks wallets, which asks the chain as well.

    tried = []
    for _ in range(3):
        with capture_logs() as logs:
            steps = worker.work() + worker.advance() + worker.advance()
        assert steps == 0
        tried.append(world.chain.calls["pending_count"])
        assert [(entry["event"], entry["code"]) for entry in logs] == [
            ("refund-delayed", "chain-unavailable")
        ]

    waiting = world.stored(refund)
    assert tried == [1, 2, 3]
    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "chain-unavailable")
    assert waiting.attempts == 3
    assert waiting.due_at == world.clock() + timedelta(seconds=4)
    assert waiting.cancel_requested_at == world.clock()


def test_a_failing_cancellation_does_not_spin(world: World) -> None:
    """Its own writes wake the worker up, which then has nothing to do (R26)."""
    refund = _asked(world, world.accepted())
    world.chain.fail("pending_count", *[ChainUnavailableError("gone")] * 100)
    wakes: list[int] = []

    def wait(seconds: float) -> bool:
        wakes.append(world.stored(refund).version)
        world.clock.advance(milliseconds=10)
        return True

    worker = _waiting(world, wait)
    worker._passes = 1
    with capture_logs():
        worker.run(lambda: len(wakes) == 90, 0.9)

    assert wakes == [1] * 90
    assert world.chain.calls["pending_count"] == 1


def test_failing_cancellations_do_not_hold_up_others(world: World) -> None:
    """Those that fail in a pass are skipped until the next one (R26)."""
    silent = [world.on_network("silent", world.accepted()) for _ in range(3)]
    good = [world.accepted() for _ in range(2)]
    unreachable = altered(world.chain, pending_count=ChainUnavailableError("gone"))
    chains = {**world.chains, "silent": Chain(world.network, unreachable)}
    lifecycle = world.lifecycle
    lifecycle._chains = chains
    for refund in (*silent, *good):
        _asked(world, refund)
    worker = world.worker_with(lifecycle, **chains)

    with capture_logs() as logs:
        assert worker.work() == 2

    delayed = [entry["refund_id"] for entry in logs if "refund_id" in entry]
    assert delayed[:3] == [refund.id for refund in silent]
    assert _statuses(world, [*silent, *good]) == [
        *[Status.QUEUED] * 3,
        *[Status.CANCELLED] * 2,
    ]


def test_more_failing_cancellations_than_a_batch(world: World) -> None:
    """The worker reads on after those that it tried in this pass (R26)."""
    refunds = [_asked(world, world.accepted()) for _ in range(250)]
    stuck = {refund.id for refund in refunds[:200]}
    lifecycle = world.lifecycle
    tried: list[str] = []

    def step(refund: Refund) -> Refund:
        tried.append(refund.id)
        if refund.id in stuck:
            raise ChainUnavailableError("gone")
        return lifecycle.step(refund)

    world.store = altered(world.store, claim=lambda *_: ())
    worker = world.worker_with(altered(lifecycle, step=step))
    # So that the outage of one is not that of all.
    worker._find_cause = lambda refund, error: ()  # type: ignore[method-assign]
    with capture_logs():
        worker.work()
        worker.advance()
        worker.advance()

    assert tried == [refund.id for refund in refunds]
    assert _statuses(world, refunds[200:]) == [Status.CANCELLED] * 50


def test_a_ledger_that_fails_between_claims_is_not_asked_again_at_once(
    world: World,
) -> None:
    """A full claim means that more refunds are due, unless the next one fails."""
    refunds = [world.accepted() for _ in range(12)]
    world.clock.now += HOLD
    store, claims = world.store, []

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        claims.append(limit)
        if len(claims) > 1:
            raise StoreUnavailableError("gone")
        return store.claim(now, until, limit)

    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        return True

    world.store = altered(store, claim=claim)
    worker = _waiting(world, wait)
    worker.run(lambda: len(waits) > 1, interval=5)

    assert len(waits) == 2
    assert len(claims) < 10
    assert Counter(_statuses(world, refunds))[Status.BROADCAST] == 10
