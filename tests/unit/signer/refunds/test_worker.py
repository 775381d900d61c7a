"""Workers bring every accepted refund to its end, whatever happens to one of them."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

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
from signer.keys.retirement import KeyRetirement
from signer.model.audit_record import Actor
from signer.model.key import KeyState
from signer.model.refund import HOLD, Refund, Status
from signer.model.wallet import Pause
from signer.refunds.lifecycle import Lifecycle
from signer.refunds.worker import Worker
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import CUSTOMER, KEY, World, altered


AMOUNT = 12_500_000


def _statuses(world: World, refunds: Sequence[Refund]) -> list[Status]:
    return [world.stored(refund).status for refund in refunds]


def _worker(
    world: World, lifecycle: Lifecycle | None = None, **chains: Chain
) -> Worker:
    """Return a worker with a lifecycle or chains of its own."""
    return Worker(
        world.store,
        lifecycle or world.lifecycle,
        tracker=world.tracker,
        wallets=world.wallets,
        ring=world.ring,
        keeper=KeyRetirement(world.store, recording()[0], world.clock),
        chains=chains or world.chains,
        clock=world.clock,
    )


def _stepping(
    world: World, step: Callable[[Refund, Actor], Refund] | None = None
) -> Lifecycle:
    """Return a lifecycle whose steps are *step*."""
    return altered(world.lifecycle, step=step or world.lifecycle.step)


def test_a_pass_takes_each_refund_as_far_as_it_goes(world: World) -> None:
    """Queued refunds are broadcast in one pass, and confirmed when the chain is."""
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
    """The audit log tells a worker's signature from a request's."""
    audit, events = recording()
    world.signer = signer_over(honest(KEY), audit)
    world.accepted()

    world.work()

    assert {event["actor"] for event in events} == {"worker"}
    assert {event["request_id"] for event in events} == {None}


def test_a_request_that_is_being_served_is_left_alone(world: World) -> None:
    """While it is held, an accepted refund is its request's."""
    refund = world.accepted()

    assert world.work(after=HOLD - timedelta(milliseconds=1)) == 0
    assert world.work(after=timedelta(milliseconds=1)) == 3
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_refund_is_held_by_whoever_claims_it(world: World) -> None:
    """Two workers at once: each refund is one's, and the other finds nothing (R6)."""
    refunds = [world.accepted() for _ in range(3)]
    other = []

    def step(refund: Refund, actor: Actor) -> Refund:
        other.append(world.worker.work())
        return world.lifecycle.step(refund, actor)

    world.clock.now += HOLD

    assert _worker(world, _stepping(world, step)).work() == 9
    assert set(other) == {0}
    assert _statuses(world, refunds) == [Status.BROADCAST] * 3
    assert len(world.chain.broadcasts) == 3


def test_a_worker_that_wakes_up_late_finds_its_claim_gone(world: World) -> None:
    """Its step is stale, says nothing, and moves no money (R6)."""
    refund = world.accepted()

    def step(claimed: Refund, actor: Actor) -> Refund:
        world.work()
        return world.lifecycle.step(claimed, actor)

    world.clock.now += HOLD

    with capture_logs() as logs:
        steps = _worker(world, _stepping(world, step)).work()

    assert steps == 0
    assert logs == []
    assert _statuses(world, [refund]) == [Status.BROADCAST]
    world.chain.mine()
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)]


def test_one_refunds_trouble_is_not_the_next_ones(world: World) -> None:
    """A refund that fails is logged by code, waits, and the others go on (R13)."""
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


def test_a_silent_network_is_asked_once(world: World) -> None:
    """All its refunds of the pass wait, and none of them costs a time-out (R13)."""
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


def test_a_silent_network_is_no_other_networks_trouble(world: World) -> None:
    """Refunds of networks that answer go on."""
    silent, good = world.accepted(), world.accepted()
    world.store._database.run(  # type: ignore[attr-defined]  # No port renames networks.
        lambda c: c.exec_driver_sql(
            "UPDATE refunds SET network = 'silent' WHERE id = ?", (silent.id,)
        )
    )
    dumb = ScriptedChain()
    dumb.fail("estimate_gas", ChainUnavailableError("gone"))
    chains = {**world.chains, "silent": Chain(world.network, dumb)}
    lifecycle = world.lifecycle
    lifecycle._chains = chains
    world.clock.now += HOLD

    assert _worker(world, lifecycle, **chains).work() == 3
    assert _statuses(world, [silent, good]) == [Status.QUEUED, Status.BROADCAST]
    assert world.stored(silent).blocked_by == "chain-unavailable"


def test_a_silent_device_is_asked_once(world: World) -> None:
    """It signs for all networks; whatever needs it waits, with its nonce (R13)."""
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
def test_a_silent_device_is_no_other_keys_trouble(
    world: World, trouble: BackendError
) -> None:
    """The region of a former key is down, and what the active one pays goes on (O4)."""
    formers = [world.step(world.accepted()) for _ in range(2)]
    device = planted(point(KEY), trouble)
    world.signer = signer_over(device)
    world.others = (signer_over(honest(coincurve.PrivateKey.from_int(99))),)
    made_active(world.store, key_at(world.others[0].address))
    behind = world.accepted()

    world.work()

    assert device.calls == 1
    assert _statuses(world, [*formers, behind]) == [
        Status.RESERVED,
        Status.RESERVED,
        Status.BROADCAST,
    ]


def test_an_empty_wallet_fills_and_the_queue_drains(world: World) -> None:
    """A refund that holds a nonce stays at the head; a top-up is all it takes (R13)."""
    head = world.step(world.accepted())
    behind = world.accepted()
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
    assert [world.stored(refund).nonce for refund in (head, behind)] == [0, 1]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_node_without_gas_money_is_no_storm(world: World) -> None:
    """Each rejection waits twice as long, 30 s at most: 10 in four minutes (R11)."""
    world.accepted()
    errors = [BroadcastRejectedError("no", reason="insufficient-funds")] * 100
    world.chain.fail("broadcast", *errors)
    world.clock.now += HOLD

    for _ in range(240):
        world.work(after=timedelta(seconds=1))

    assert 8 <= world.chain.calls["broadcast"] <= 14


def test_a_bug_that_one_refund_meets_is_not_the_next_ones(world: World) -> None:
    """Whatever else is raised is logged by its type, and the others go on."""
    unlucky, *others = [world.accepted() for _ in range(3)]

    def step(refund: Refund, actor: Actor) -> Refund:
        if refund.id == unlucky.id:
            raise ZeroDivisionError("secret 1234")
        return world.lifecycle.step(refund, actor)

    world.clock.now += HOLD

    with capture_logs() as logs:
        steps = _worker(world, _stepping(world, step)).work()

    assert steps == 6
    assert _statuses(world, [unlucky]) == [Status.QUEUED]
    assert _statuses(world, others) == [Status.BROADCAST] * 2
    assert [(entry["event"], entry["refund_id"], entry["error"]) for entry in logs] == [
        ("refund-stuck", unlucky.id, "ZeroDivisionError")
    ]
    assert "1234" not in str(logs)


def test_every_refund_has_its_turn(world: World) -> None:
    """A pass goes on claiming while there is more, and stops where there is not."""
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


def test_a_flood_does_not_keep_what_was_sent_waiting(world: World) -> None:
    """After a hundred refunds a pass ends, and the next one tracks first."""
    one = world.accepted()
    claims: list[tuple[timedelta, int]] = []

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        claims.append((until - now, limit))
        return [world.stored(one)] * limit

    world.store = altered(world.store, claim=claim)
    idle = altered(world.lifecycle, step=lambda refund, actor: refund)

    assert _worker(world, idle).work() == 100
    assert claims == [(HOLD, 10)] * 10


def test_an_idle_pass_asks_no_node(world: World) -> None:
    """Without open refunds, only the watch over the wallet costs anything."""
    refund = world.broadcast()
    world.mine_deep()
    world.tracker.track()
    assert world.tracked(refund).status is Status.CONFIRMED
    worker = world.worker
    worker.work()
    world.chain.calls.clear()

    for _ in range(4):
        assert worker.work() == 0

    assert world.chain.calls == {}


def test_wallets_are_watched_at_every_fifth_pass(world: World) -> None:
    """A stranger is seen without that anybody wants a nonce (R23)."""
    world.broadcast()
    worker = world.worker
    worker.work()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_foreign(world.signer.address)

    def pause() -> Pause | None:
        (wallet,) = world.store.wallets()
        return wallet.paused_by

    pauses = []
    for _ in range(5):
        worker.work()
        pauses.append(pause())

    assert pauses == [None, None, None, None, Pause.CHAIN_AHEAD]


def test_a_paused_wallet_pays_when_somebody_lets_it(world: World) -> None:
    """Refunds wait, say why, and are paid once after it resumed (R23)."""
    paid = world.broadcast()
    world.chain.mine()
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_empty(2)
    refund = world.accepted()
    world.work()
    waiting = world.stored(refund)

    chain = world.chains["local"]
    address = world.signer.address
    world.wallets.resume(world.wallets.standing(chain, address), chain)
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
def test_a_watch_that_fails_stops_no_pass(world: World, error: HotWalletError) -> None:
    """The network is named, the code is logged, and refunds go on."""
    refund = world.accepted()

    def watch(chain: Chain, address: str) -> None:
        raise error

    worker = _worker(world)
    worker._wallets = altered(world.wallets, watch=watch)
    world.clock.now += HOLD

    with capture_logs() as logs:
        assert worker.work() == 3

    assert logs == [
        {
            "event": "watch-failed",
            "log_level": "warning",
            "network": "local",
            "code": error.code,
        }
    ]
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_ledger_that_goes_away_keeps_the_claim(world: World) -> None:
    """Who cannot put a refund back leaves it until the claim is over."""
    refund = world.accepted()
    world.chain.fail("estimate_gas", ChainUnavailableError("gone"))

    def postpone(late: Refund, trouble: HotWalletError) -> Refund:
        raise StoreUnavailableError("gone")

    world.clock.now += HOLD

    with capture_logs() as logs:
        _worker(world, altered(world.lifecycle, postpone=postpone)).work()

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("refund-delayed", "chain-unavailable"),
        ("refund-held", "store-unavailable"),
    ]
    assert world.worker.work() == 0
    assert world.work() == 3
    assert _statuses(world, [refund]) == [Status.BROADCAST]


def test_a_worker_runs_until_it_is_told_to_stop(world: World) -> None:
    """It works, asks whether to stop, and works again."""
    world.accepted()
    world.clock.now += HOLD
    answers = iter([False, False, True])
    passes = []

    def wait() -> bool:
        passes.append(len(world.chain.broadcasts))
        return next(answers)

    world.worker.run(wait)

    assert passes == [1, 1, 1]


def test_a_worker_outlives_its_database(world: World) -> None:
    """A pass that fails as a whole is logged, and the next one is tried."""
    world.accepted()
    world.clock.now += HOLD
    answers = iter([False, True])
    troubles = iter([StoreUnavailableError("gone")])

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        for trouble in troubles:
            raise trouble
        return store.claim(now, until, limit)

    store, world.store = world.store, altered(world.store, claim=claim)

    with capture_logs() as logs:
        world.worker.run(lambda: next(answers))

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("pass-failed", "store-unavailable")
    ]
    assert len(world.chain.broadcasts) == 1


def test_a_ring_that_cannot_be_read_stops_no_pass(world: World) -> None:
    """Nothing is watched then, and what was sent is tracked all the same."""
    refund = world.broadcast()
    world.chain.mine()

    def gone() -> None:
        raise StoreUnavailableError("gone")

    worker = _worker(world)
    worker._ring = altered(world.ring, refresh=gone)
    with capture_logs() as logs:
        worker.work()

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("watch-failed", "store-unavailable")
    ]
    assert world.stored(refund).status is Status.MINED


def test_a_ring_that_goes_away_lets_no_claim_lie(world: World) -> None:
    """Refunds that were claimed by then are put back, each by itself."""
    refunds = [world.accepted() for _ in range(2)]
    world.clock.now += HOLD

    def gone() -> None:
        raise StoreUnavailableError("gone")

    worker = _worker(world)
    worker._ring = altered(world.ring, cached_keys=gone)
    worker.work()

    assert [world.stored(refund).blocked_by for refund in refunds] == [
        StoreUnavailableError.code
    ] * 2


def test_a_key_that_never_paid_is_retired(world: World) -> None:
    """Neither ledger nor chain has anything of it, and it need not drain (O4)."""
    other = signer_over(honest(coincurve.PrivateKey.from_int(99)))
    assert world.ring.active().key.address == world.signer.address
    world.others = (other,)
    made_active(world.store, key_at(other.address))

    world.worker.work()

    active, former = world.store.keys()
    assert (active.state, former.state) == (KeyState.ACTIVE, KeyState.RETIRED)
