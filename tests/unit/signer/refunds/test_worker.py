"""The worker: passes, claims, failures, wallet checks, waits and cancellations."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
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
from signer.model.network_view import Look
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.model.wallet import Pause
from signer.model.worker_row import STOPPED_AFTER, WorkerRow
from signer.ports.ledger import Ledger
from signer.ports.meter import Meter
from signer.refunds.head_looks import LONGEST_OWN_PAUSE
from signer.refunds.saved_steps import Moving
from signer.refunds.standby import LOOK_SECONDS, PATIENCE, Standby
from signer.refunds.worker import Worker
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.refunds import (
    ACTOR,
    AMOUNT,
    CUSTOMER,
    KEY,
    FakeClock,
    World,
    altered,
    altered_chain,
    stepping,
    unsaved,
    watched,
)
from tests.support.waiting import eventually


def test_a_pass_takes_each_refund_as_far_as_it_goes(world: World) -> None:
    """Queued refunds are broadcast in one pass, and confirmed when final."""
    refunds = [world.accepted() for _ in range(3)]

    assert world.work() == 9
    assert world.statuses(refunds) == [Status.BROADCAST] * 3
    assert world.worker.work() == 0

    world.chain.mine()
    assert world.worker.work() == 3
    assert world.statuses(refunds) == [Status.MINED] * 3

    world.chain.mine_empty(2)
    assert world.worker.work() == 3
    assert world.statuses(refunds) == [Status.CONFIRMED] * 3
    assert world.worker.work() == 0
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 3


def test_payments_take_half_of_the_time_of_a_long_look_for_receipts(
    world: World,
) -> None:
    """One that comes then waits for a part of the receipts, and not for all."""
    sent = [world.broadcast() for _ in range(4)]
    world.chain.mine()
    refunds = [world.accepted()]
    mined: list[int] = []

    def broadcast(raws: Sequence[bytes]) -> Any:
        mined.append(world.statuses(sent).count(Status.MINED))
        world.clock.now += timedelta(seconds=2)
        if len(refunds) == 1:
            refunds.append(world.accepted())
        return world.chain.broadcast_all(raws)

    class Slow(Meter):
        def moved(self, before: Refund, after: Refund) -> None:
            world.clock.now += timedelta(seconds=1)

    world.client = altered_chain(world.chain, broadcast_all=broadcast)
    worker = world.waiting_worker(lambda _: None)
    worker._confirmation_tracker.part = 1
    worker._confirmation_tracker.meter = Slow()
    worker.work()

    assert mined == [1, 3]  # After as much time for receipts as the first one took.
    assert world.statuses(refunds) == [Status.BROADCAST] * 2


@pytest.mark.parametrize("error", [StoreUnavailableError, ChainUnavailableError])
def test_receipts_do_not_wait_for_payments_that_fail(
    world: World, error: type[HotWalletError]
) -> None:
    sent = [world.broadcast() for _ in range(3)]
    world.chain.mine()
    world.accepted()

    def fail(moving: Sequence[Moving]) -> Any:
        raise error("gone")

    worker = world.worker_with(altered(world.lifecycle, step_all=fail))
    worker._timer = world._timer
    worker._confirmation_tracker.part = 1
    with capture_logs() as logs:
        worker.work()

    # The second try claimed the refund, so no third one finds it.
    assert [each["event"] for each in logs] == ["pass-failed"] * 2
    assert world.statuses(sent) == [Status.MINED] * 3


def test_a_network_that_fails_is_tried_once_during_a_look_for_receipts(
    world: World,
) -> None:
    """What is due again between later parts is postponed untried."""
    for _ in range(4):
        world.broadcast()
    world.chain.mine()
    world.accepted()
    tried: list[int] = []

    def fail(moving: Sequence[Moving]) -> Any:
        tried.extend([len(moving)] if moving else [])
        return [ChainUnavailableError("gone")] * len(moving)

    class Slow(Meter):
        def moved(self, before: Refund, after: Refund) -> None:
            world.clock.now += timedelta(seconds=3)

    worker = world.worker_with(altered(world.lifecycle, step_all=fail))
    worker._timer = world._timer
    worker._confirmation_tracker.part = 1
    worker._confirmation_tracker.meter = Slow()
    worker.work()

    assert tried == [1]


def test_a_worker_that_must_stop_pays_nothing_during_a_look(world: World) -> None:
    """The receipts that it has are saved, since they were paid for."""
    sent = [world.broadcast() for _ in range(4)]
    world.chain.mine()
    refund, mined = world.accepted(), list[int]()
    asks = iter([False])  # The signal arrives after the second part.

    def broadcast(raws: Sequence[bytes]) -> Any:
        mined.append(world.statuses(sent).count(Status.MINED))
        world.accepted()
        return world.chain.broadcast_all(raws)

    world.client = altered_chain(world.chain, broadcast_all=broadcast)
    worker = world.waiting_worker(lambda _: None)
    worker._confirmation_tracker.part = 1
    worker.run(lambda: next(asks, True), 1)

    assert mined[:2] == [1, 4]
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_each_move_is_counted(world: World) -> None:
    """With the status that the refund had before, and the one it has now."""
    world.accepted()
    seen: list[tuple[Status, Status]] = []

    class Moves(Meter):
        def moved(self, before: Refund, after: Refund) -> None:
            seen.append((before.status, after.status))

    world.clock.now += CLAIM_TIME
    worker = world.worker
    worker._meter = Moves()
    worker.work()

    path = [Status.QUEUED, Status.RESERVED, Status.SIGNED, Status.BROADCAST]
    assert seen == [*pairwise(path)]


def test_a_worker_whose_claim_expired_changes_nothing(world: World) -> None:
    """Its step is stale, and moves no money (R6)."""
    refund = world.accepted()

    def step(claimed: Refund) -> Refund:
        world.work()
        return world.lifecycle.step(claimed)

    world.clock.now += CLAIM_TIME

    with capture_logs() as logs:
        steps = world.worker_with(stepping(world.lifecycle, step)).work()

    assert steps == 0
    assert logs == []
    assert world.statuses([refund]) == [Status.BROADCAST]
    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_a_failing_refund_does_not_stop_others(world: World) -> None:
    """It is postponed (R13)."""
    refunds = [world.accepted() for _ in range(3)]
    world.chain.fail("broadcast", BroadcastRejectedError("u:p@node", reason="other"))

    assert world.work() == 8
    assert world.statuses(refunds[1:]) == [Status.BROADCAST] * 2
    assert world.blocked(refunds[0]) == (Status.SIGNED, "broadcast-rejected")
    delayed = world.stored(refunds[0]).moving
    assert (delayed.attempts, delayed.due_at - world.clock()) == (
        1,
        timedelta(seconds=1),
    )


def test_an_unreachable_network_does_not_stop_others(world: World) -> None:
    """Refunds of networks that answer go on."""
    silent, good = world.on_network("silent", world.accepted()), world.accepted()
    unreachable = altered_chain(world.chain, estimate_gas=ChainUnavailableError("gone"))
    chains = {**world.chains, "silent": Chain(world.network, unreachable)}
    lifecycle = world.lifecycle
    lifecycle._chains = chains
    world.clock.now += CLAIM_TIME

    assert world.worker_with(lifecycle, **chains).work() == 3
    assert world.statuses([silent, good]) == [Status.QUEUED, Status.BROADCAST]
    assert world.stored(silent).moving.blocked_by == "chain-unavailable"


@pytest.mark.parametrize(
    "trouble", [BackendUnavailableError("gone"), AccessDeniedError("denied")]
)
def test_an_unreachable_device_does_not_stop_other_keys(
    world: World, trouble: BackendError
) -> None:
    """
    A former key's region is down, and the active key's refunds continue (O4).

    Its refunds wait with their nonces, without a time-out each (R13).
    """
    formers = [world.step(world.accepted()) for _ in range(2)]
    device = planted(point(KEY), trouble)
    world.signer = signer_over(device)
    world.rotate()
    following = world.accepted()

    world.work()

    assert device.calls == 1
    blocked = (Status.RESERVED, trouble.code)
    assert [world.blocked(refund) for refund in formers] == [blocked] * 2
    assert world.stored(following).status is Status.BROADCAST
    world.signer = signer_over(honest(KEY))
    assert world.work() == 4
    assert [world.stored(refund).nonce for refund in formers] == [0, 1]


def test_an_unexpected_exception_does_not_stop_other_refunds(world: World) -> None:
    """It is logged by its type."""
    unlucky, *others = [world.accepted() for _ in range(3)]

    def step(refund: Refund) -> Refund:
        if refund.id == unlucky.id:
            raise ZeroDivisionError("secret 1234")
        return world.lifecycle.step(refund)

    world.clock.now += CLAIM_TIME

    with capture_logs() as logs:
        steps = world.worker_with(stepping(world.lifecycle, step)).work()

    assert steps == 6
    assert world.statuses([unlucky]) == [Status.QUEUED]
    assert world.statuses(others) == [Status.BROADCAST] * 2
    assert [(entry["event"], entry["refund_id"], entry["error"]) for entry in logs] == [
        ("refund-stuck", unlucky.id, "ZeroDivisionError")
    ]
    assert "1234" not in str(logs)


def test_a_flood_does_not_delay_tracking(world: World) -> None:
    """A pass claims for a second, faster and faster, and the next one tracks first."""
    claimed = world.accepted().with_due_at(world.clock())
    claims: list[tuple[timedelta, int]] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claims.append((until - now, limit))
        world.clock.advance(seconds=0.2)
        return [claimed] * limit

    world.store = altered(world.store, claim=claim)
    idle = stepping(world.lifecycle, lambda refund: refund)
    worker = world.worker_with(idle)
    worker._timer = world._timer

    assert worker.work() == 32 + 64 + 128 + 128 + 128
    assert claims == [(CLAIM_TIME, limit) for limit in (32, 64, 128, 128, 128)]


def test_claims_are_smaller_if_a_network_without_a_vault_is_slow(world: World) -> None:
    """Each of its refunds needs a signature, and the claim must not expire."""
    world.use_vault(max_batch=100)
    claimed = world.accepted().with_due_at(world.clock())
    claims: list[int] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claims.append(limit)
        world.clock.advance(seconds=0.5 * limit)
        return [claimed] * limit

    world.store = altered(world.store, claim=claim)
    worker = world.worker_with(stepping(world.lifecycle, lambda refund: refund))
    worker._timer = world._timer
    for _ in range(3):
        worker.work()

    assert claims == [100, 4, 4]


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


def test_one_worker_checks_the_wallets_every_30_seconds(world: World) -> None:
    """A foreign transaction is found without a new refund (R23)."""
    world.broadcast()
    workers = [world.worker, world.worker]
    for worker in workers:
        worker.work()  # A worker that starts checks them as well.
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_foreign(world.signer.address)
    world.chain.calls.clear()
    found = []
    for _ in range(40):
        world.clock.advance(seconds=1)
        for worker in workers:
            worker.work()
        found.append((world.chain.calls["pending_count"], world.wallet.paused_by))

    assert found[28] == (0, None)
    assert found[-1][1] is Pause.CHAIN_AHEAD


def test_wallets_are_checked_less_often_while_nothing_moves(world: World) -> None:
    """After ten minutes every two, and every 30 seconds once a refund was paid."""
    world.broadcast()
    worker = world.worker

    def checks(seconds: int) -> int:
        before = world.chain.calls["transaction_count"]
        before += world.chain.calls["pending_count"]
        for _ in range(0, seconds, 5):
            world.clock.advance(seconds=5)
            for _ in range(5):
                worker.work()
        after = world.chain.calls["transaction_count"]
        return after + world.chain.calls["pending_count"] - before

    world.mine_deep()
    worker.work()
    worker.work()
    assert checks(595) >= 19
    assert checks(600) <= 6
    refund = world.accepted()
    worker.work()
    assert world.stored(refund).status is Status.BROADCAST


def test_wallet_checks_that_an_intruder_writes_delay_a_worker_for_minutes_only(
    world: World,
) -> None:
    """A foreign transaction is found, although no worker's turn ever comes."""
    world.broadcast()
    worker = world.worker
    worker.work()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_foreign(world.signer.address)
    for _ in range(5):
        world.clock.advance(seconds=LONGEST_OWN_PAUSE.total_seconds() / 4)
        last = world.store.last_look("wallets")
        assert world.store.save_look("wallets", last, Look(world.clock()))
        for _ in range(5):
            worker.work()

    assert world.wallet.paused_by is Pause.CHAIN_AHEAD


@pytest.mark.parametrize(
    "error", [ChainUnavailableError("u:p@node"), StoreUnavailableError("u:p@db")]
)
def test_a_failed_wallet_check_does_not_stop_the_pass(
    world: World, error: HotWalletError
) -> None:
    refund = world.accepted()
    worker = world.worker
    worker._wallets = altered(world.wallets, reconcile=error)
    world.clock.now += CLAIM_TIME

    assert worker.work() == 3
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_refund_that_cannot_be_postponed_stays_claimed(world: World) -> None:
    """The claim expires by itself."""
    refund = world.accepted()
    world.store.claim(world.clock(), world.clock(), 1)  # Another worker had it before.
    world.chain.fail("estimate_gas", ChainUnavailableError("gone"))
    world.clock.now += CLAIM_TIME

    world.worker_with(altered(world.lifecycle, postpone=unsaved)).work()

    assert world.worker.work() == 0
    assert world.work() == 3
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_an_unreadable_ring_does_not_stop_the_pass(world: World) -> None:
    """No wallet is checked, and refunds are tracked."""
    refund = world.broadcast()
    world.chain.mine()
    worker = world.worker
    worker._ring = altered(world.ring, current_keys=StoreUnavailableError("gone"))
    worker.work()

    assert world.stored(refund).status is Status.MINED


def test_an_unreadable_ring_does_not_stop_the_worker(world: World) -> None:
    """The steps of the refunds read the ring themselves, also after a failure."""
    silent = [world.on_network("silent", world.accepted()) for _ in range(32)]
    refunds = [world.accepted() for _ in range(2)]
    gone = altered_chain(world.chain, fees=ChainUnavailableError("gone"))
    chains = {**world.chains, "silent": Chain(world.network, gone)}
    lifecycle = world.lifecycle
    lifecycle._chains = chains
    world.clock.now += CLAIM_TIME
    worker = world.worker_with(lifecycle, **chains)
    worker._timer = world._timer
    worker._ring = altered(world.ring, cached_keys=StoreUnavailableError("gone"))
    with capture_logs():
        worker.advance()

    assert world.statuses(refunds) == [Status.BROADCAST] * 2
    assert world.statuses(silent) == [Status.QUEUED] * 32


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
    worker = world.waiting_worker(_recording(world, waits))
    worker.run(lambda: len(waits) == 3, 0.5)

    assert waits == [0.5, 0.5, 0.5]
    assert worker._passes == 3


def test_a_worker_that_is_stopped_ends_after_its_pass(world: World) -> None:
    """``hotwallet worker --once`` makes one pass."""
    refund = world.accepted()

    world.waiting_worker(lambda _: pytest.fail("it waited")).run(lambda: True, 3600)

    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_worker_is_stopped_while_it_waits(world: World) -> None:
    """It checks at least every second, however long its interval is."""
    waits: list[float] = []
    worker = world.waiting_worker(_recording(world, waits))
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
            assert world.statuses(refunds) == [Status.BROADCAST] * len(refunds)
        if len(refunds) < 3:
            refunds.append(world.accepted())
            world.clock.advance(milliseconds=125)
            return True
        world.clock.advance(seconds=seconds)
        return False

    worker = world.waiting_worker(wait)
    worker.run(lambda: len(waits) == 4, 0.5)

    assert waits == [0.5, 0.375, 0.25, 0.125]
    assert worker._passes == 1
    assert world.chain.calls["broadcast"] == 3


def test_a_worker_survives_a_failing_database(world: World) -> None:
    """A failed pass is logged, and so is a failed start between two passes."""
    refund = world.accepted()
    troubles = [StoreUnavailableError("gone")] * 2
    waits: list[float] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        if troubles:
            raise troubles.pop()
        return store.claim(now, until, limit)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return True

    store, world.store = world.store, altered(world.store, claim=claim)

    with capture_logs() as logs:
        world.waiting_worker(wait).run(lambda: len(waits) == 2, 0.5)

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("pass-failed", "store-unavailable")
    ] * 2
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_failing_database_does_not_spin(world: World) -> None:
    """A worker that had more to claim waits all the same when claims fail."""
    one = world.accepted()
    claims: list[bool] = []
    waits: list[float] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claims.append(len(claims) % 2 == 0)
        if claims[-1]:
            return [world.stored(one)] * limit
        world.clock.advance(milliseconds=10)  # So that the test ends.
        raise StoreUnavailableError("gone")

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=seconds)
        return False

    world.store = altered(watched(world.store, wait), claim=claim)
    idle = stepping(world.lifecycle, lambda refund: refund)
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

    assert eventually(lambda: world.statuses(refunds) == [Status.BROADCAST] * 25, 30)
    assert worker._passes == 1


def _asked(world: World, refund: Refund) -> Refund:
    """Return *refund* after a request to cancel it."""
    world.service.request_cancellation("gateway", refund.id, ACTOR)
    return world.stored(refund)


def _failing_for(world: World, stuck: set[str]) -> tuple[Worker, list[str]]:
    """Return a worker with steps that fail for *stuck*, and the ids that it tries."""
    lifecycle = world.lifecycle
    tried: list[str] = []

    def step(refund: Refund) -> Refund:
        tried.append(refund.id)
        if refund.id in stuck:
            raise ChainUnavailableError("gone")
        return lifecycle.step(refund)

    world.store = altered(world.store, claim=lambda *_, **__: ())
    worker = world.worker_with(stepping(lifecycle, step))
    # So that the outage of one is not that of all.
    worker._find_cause = lambda moving, error: ()  # type: ignore[method-assign]
    return worker, tried


def test_a_request_to_cancel_precedes_the_queue(world: World) -> None:
    """A refund that is due is cancelled and not sent (R26)."""
    refunds = [world.accepted() for _ in range(3)]
    _asked(world, refunds[2])

    assert world.worker.work() == 7
    assert world.statuses(refunds) == [
        Status.BROADCAST,
        Status.BROADCAST,
        Status.CANCELLED,
    ]


def test_a_refund_that_is_not_due_is_cancelled(world: World) -> None:
    """It does not wait for its retry, nor for the claim of a dead worker (R26)."""
    late, held = world.accepted(), world.accepted()
    world.lifecycle.postpone([(late, ChainUnavailableError("gone"))])
    world.store.claim(world.clock(), world.clock() + CLAIM_TIME, 10)
    for refund in (late, held):
        _asked(world, refund)

    assert world.worker.advance() == 2
    assert world.statuses([late, held]) == [Status.CANCELLED] * 2


def test_two_workers_cancel_once(world: World) -> None:
    """The second one's step is stale, and only one record is written (R6, R26)."""
    refund = _asked(world, world.accepted())
    lifecycle = world.lifecycle
    lifecycle.parts.audit, events = recording()

    def step(each: Refund) -> Refund:
        world.worker.advance()
        return lifecycle.step(each)

    with capture_logs() as logs:
        steps = world.worker_with(stepping(lifecycle, step)).advance()

    assert steps == 0
    assert [entry["event"] for entry in logs] == ["refund-ended"]
    assert events == []
    assert world.statuses([refund]) == [Status.CANCELLED]


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
    assert world.blocked(refund) == (Status.QUEUED, "chain-unavailable")
    assert waiting.moving.attempts == 3
    assert waiting.moving.due_at == world.clock() + timedelta(seconds=4)
    assert waiting.cancel_requested_at == world.clock()


def test_failing_cancellations_do_not_hold_up_others(world: World) -> None:
    """Those that fail in a pass are skipped until the next one (R26)."""
    silent = [world.on_network("silent", world.accepted()) for _ in range(3)]
    good = [world.accepted() for _ in range(2)]
    unreachable = altered_chain(
        world.chain, pending_count=ChainUnavailableError("gone")
    )
    chains = {**world.chains, "silent": Chain(world.network, unreachable)}
    lifecycle = world.lifecycle
    lifecycle._chains = chains
    for refund in (*silent, *good):
        _asked(world, refund)
    worker = world.worker_with(lifecycle, **chains)

    with capture_logs() as logs:
        assert worker.work() == 2

    delayed = [e["refunds"] for e in logs if e["event"] == "queue-delayed"]
    assert delayed == [len(silent)]
    assert world.statuses([*silent, *good]) == [
        *[Status.QUEUED] * 3,
        *[Status.CANCELLED] * 2,
    ]


def test_payments_that_are_due_wait_for_no_look(world: World) -> None:
    """What woke the worker is seldom a request to cancel (R26)."""
    looks: list[int] = []
    asked = world.store.cancellation_requests

    def requests(limit: int, after: str | None = None) -> Sequence[Refund]:
        looks.append(limit)
        return asked(limit, after)

    world.store = altered(world.store, cancellation_requests=requests)
    worker = world.worker
    worker.work()

    world.accepted()
    assert (worker.advance(), len(looks)) == (3, 1)
    assert (worker.advance(), len(looks)) == (0, 2)


def test_constant_load_does_not_hold_up_a_cancellation(world: World) -> None:
    """A tenant whose refunds are always due delays another one's by 0.2 s (R26)."""
    late = world.accepted()
    world.lifecycle.postpone([(late, ChainUnavailableError("gone"))])
    begun = world.clock()
    took: list[timedelta] = []

    def wait(_: float) -> bool:
        world.clock.advance(milliseconds=10)
        world.accepted()
        if len(took) == 1:
            _asked(world, late)
        if world.stored(late).status is Status.QUEUED:
            took.append(world.clock() - begun)
        return True

    worker = world.waiting_worker(wait)
    worker.run(lambda: world.clock() - begun > timedelta(seconds=1), 3600)

    assert max(took) <= timedelta(milliseconds=220)
    assert world.stored(late).status is Status.CANCELLED


def test_failing_cancellations_hold_up_none_in_the_next_passes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass reads on where the last one stopped, until each was tried (R26)."""
    monkeypatch.setattr("signer.refunds.worker._CANCELLATIONS", 10)
    refunds = [_asked(world, world.accepted()) for _ in range(25)]
    worker, tried = _failing_for(world, {refund.id for refund in refunds[:24]})
    with capture_logs():
        for _ in range(4):
            worker.work()

    ids = [refund.id for refund in refunds]
    assert tried == [*ids, *ids[:10]]
    assert world.stored(refunds[24]).status is Status.CANCELLED


def _start(store: SQLStore, clock: FakeClock, *names: str) -> dict[str, Standby]:
    """Start workers, one after the other."""
    for name in names:
        store.record_pass(WorkerRow(name, clock(), clock()))
        clock.advance(milliseconds=1)
    return {
        name: Standby(store, name, clock, lambda: clock().timestamp()) for name in names
    }


def test_the_first_worker_leads(store: SQLStore) -> None:
    workers = _start(store, FakeClock(), "b", "a")

    assert workers["b"]() == timedelta(0)
    assert workers["a"]() == PATIENCE


def test_a_worker_without_a_row_leads_only_alone(store: SQLStore) -> None:
    """It has not completed its first pass yet."""
    clock = FakeClock()
    timer = clock().timestamp
    assert Standby(store, "new", clock, timer)() == timedelta(0)

    _start(store, clock, "old")
    assert Standby(store, "new", clock, timer)() == PATIENCE


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_next_worker_leads_after_the_first(
    store: SQLStore, is_killed: bool
) -> None:
    """At once if the first one has ended, and later if it was killed."""
    clock = FakeClock()
    workers = _start(store, clock, "a", "b")
    assert workers["b"]() == PATIENCE

    if is_killed:
        clock.advance(seconds=STOPPED_AFTER.total_seconds())
        store.record_pass(WorkerRow("b", clock(), clock()))
    else:
        store.remove_worker("a")
    clock.advance(seconds=LOOK_SECONDS - 1)
    assert workers["b"]() == (timedelta(0) if is_killed else PATIENCE)
    clock.advance(seconds=1)
    assert workers["b"]() == timedelta(0)


def test_only_a_worker_that_is_alone_takes_several_without_a_claim(
    world: World,
) -> None:
    """Two would do the same work.  What still waits after a step is claimed."""
    for _ in range(3):
        world.accepted()
    taken: list[int] = []

    def step(refund: Refund) -> Refund:
        taken.append(refund.version)
        return refund

    world.clock.now += CLAIM_TIME
    alone = world.worker_with(stepping(world.lifecycle, step))
    alone._is_alone = lambda: True
    alone.advance()

    assert taken == [0] * 3 + [1] * 3
    world.accepted()
    world.accepted()
    world.clock.now += timedelta(seconds=1)
    taken.clear()
    world.worker_with(stepping(world.lifecycle, step)).advance()
    assert taken == [1] * 2


def test_a_worker_is_alone_until_another_one_passes(store: SQLStore) -> None:
    clock = FakeClock()
    first = _start(store, clock, "a")["a"]
    assert first.is_alone()

    _start(store, clock, "b")
    clock.advance(seconds=LOOK_SECONDS)
    assert not first.is_alone()
    store.remove_worker("b")
    clock.advance(seconds=LOOK_SECONDS)
    assert first.is_alone()


def test_a_second_worker_takes_what_the_first_leaves(world: World) -> None:
    refund = world.accepted()
    worker = world.worker
    worker._patience = lambda: PATIENCE

    assert worker.work() == 0
    world.clock.advance(milliseconds=999)
    assert worker.advance() == 0
    world.clock.advance(milliseconds=1)
    worker.work()

    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_change_does_not_wake_a_second_worker(world: World) -> None:
    """Its next pass takes what is left."""
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        world.clock.advance(seconds=0.25)
        return True

    refund = world.accepted()
    worker = world.waiting_worker(wait)
    worker._patience = lambda: PATIENCE
    statuses = []

    def is_stopping() -> bool:
        statuses.extend(world.statuses([refund]))
        return len(waits) == 4

    worker.run(is_stopping, 1.5)

    assert set(statuses) == {Status.QUEUED}
    worker.work()
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_worker_leads_also_after_an_idle_time(world: World) -> None:
    """The first refund wakes it: the worker that led ended while nothing was open."""
    refunds = [world.accepted()]

    def wait(_: float) -> bool:
        refunds.append(world.accepted())
        return True

    worker = world.waiting_worker(wait)
    worker._patience = lambda: PATIENCE
    world.clock.advance(seconds=PATIENCE.total_seconds())
    worker.work()
    world.finish(*refunds)
    worker._patience = timedelta

    worker.run(lambda: len(refunds) == 2, 3600)

    assert world.statuses(refunds[1:]) == [Status.BROADCAST]
