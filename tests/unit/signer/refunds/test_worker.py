"""The worker: passes, claims, failures and wallet checks."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import bitcurve
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
from signer.model.network_view import Look
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.model.wallet import Pause
from signer.refunds.head_looks import LONGEST_OWN_PAUSE
from signer.refunds.saved_steps import Moving
from tests.support.devices import honest, planted, point, recording, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import (
    AMOUNT,
    CUSTOMER,
    KEY,
    World,
    altered,
    altered_chain,
    stepping,
    unsaved,
)


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
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_refund_of_another_worker_is_not_claimed(world: World) -> None:
    """That worker has the claim until it expires (R6)."""
    refund = world.accepted()
    world.store.claim(world.clock(), world.clock() + CLAIM_TIME, 1)

    assert world.work(after=CLAIM_TIME - timedelta(milliseconds=1)) == 0
    assert world.work(after=timedelta(milliseconds=1)) == 3
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_refund_is_claimed_by_one_worker(world: World) -> None:
    """Of two concurrent workers, the second claims nothing (R6)."""
    refunds = [world.accepted() for _ in range(3)]
    other = []

    def step(refund: Refund) -> Refund:
        other.append(world.worker.work())
        return world.lifecycle.step(refund)

    world.clock.now += CLAIM_TIME

    assert world.worker_with(stepping(world.lifecycle, step)).work() == 9
    assert set(other) == {0}
    assert world.statuses(refunds) == [Status.BROADCAST] * 3
    assert len(world.chain.broadcasts) == 3


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
    """It is logged by code and postponed (R13)."""
    refunds = [world.accepted() for _ in range(3)]
    world.chain.fail("broadcast", BroadcastRejectedError("u:p@node", reason="other"))

    with capture_logs() as logs:
        steps = world.work()

    assert steps == 8
    assert world.statuses(refunds) == [
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
    assert (delayed.moving.attempts, delayed.moving.blocked_by) == (
        1,
        "broadcast-rejected",
    )
    assert delayed.moving.due_at == world.clock() + timedelta(seconds=1)


def test_an_unreachable_network_is_asked_once_per_pass(world: World) -> None:
    """Its other refunds are postponed without a time-out each (R13)."""
    refunds = [world.accepted() for _ in range(3)]
    world.chain.fail("fees", ChainUnavailableError("gone"))

    with capture_logs() as logs:
        steps = world.work()

    assert steps == 0
    assert world.chain.calls["fees"] == 1
    assert {entry["code"] for entry in logs} == {"chain-unavailable"}
    assert [world.stored(refund).moving.blocked_by for refund in refunds] == [
        "chain-unavailable"
    ] * 3
    assert world.work() == 9


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


def test_an_unreachable_device_is_asked_once_per_pass(world: World) -> None:
    """Refunds of all networks that need it wait, with their nonces (R13)."""
    refunds = [world.step(world.accepted()) for _ in range(3)]
    device = planted(point(KEY), BackendUnavailableError("gone"))
    world.signer = signer_over(device)

    steps = world.work()

    assert steps == 0
    assert device.calls == 1
    assert [world.stored(refund).moving.blocked_by for refund in refunds] == [
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
    assert world.statuses([*formers, following]) == [
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

    assert (waiting.status, waiting.moving.blocked_by, waiting.moving.attempts) == (
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
    world.clock.now += CLAIM_TIME

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


def test_every_refund_has_its_turn(world: World) -> None:
    """A pass claims more and more, until no due refund is left."""
    refunds = [world.accepted() for _ in range(97)]
    claims: list[int] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claimed = store.claim(now, until, limit)
        claims.append(len(claimed))
        return claimed

    store, world.store = world.store, altered(world.store, claim=claim)

    world.clock.now += CLAIM_TIME
    worker = world.worker
    worker._timer = world._timer

    assert worker.work() == 3 * 97
    assert claims == [32, 64, 1, 0]
    assert world.statuses(refunds) == [Status.BROADCAST] * 97


def test_a_flood_does_not_delay_tracking(world: World) -> None:
    """A pass claims for a second, faster and faster, and the next one tracks first."""
    one = world.accepted()
    claims: list[tuple[timedelta, int]] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claims.append((until - now, limit))
        world.clock.advance(seconds=0.2)
        return [world.stored(one)] * limit

    world.store = altered(world.store, claim=claim)
    idle = stepping(world.lifecycle, lambda refund: refund)
    worker = world.worker_with(idle)
    worker._timer = world._timer

    assert worker.work() == 32 + 64 + 128 + 128 + 128
    assert claims == [(CLAIM_TIME, limit) for limit in (32, 64, 128, 128, 128)]


def test_claims_are_smaller_if_a_network_without_a_vault_is_slow(world: World) -> None:
    """Each of its refunds needs a signature, and the claim must not expire."""
    world.use_vault(max_batch=100)
    one = world.accepted()
    claims: list[int] = []

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claims.append(limit)
        world.clock.advance(seconds=0.5 * limit)
        return [world.stored(one)] * limit

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

    assert (waiting.status, waiting.moving.blocked_by) == (
        Status.QUEUED,
        "wallet-paused",
    )
    assert world.statuses([paid, refund]) == [Status.CONFIRMED] * 2
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
    world.clock.now += CLAIM_TIME

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
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_a_refund_that_cannot_be_postponed_stays_claimed(world: World) -> None:
    """The claim expires by itself."""
    refund = world.accepted()
    world.store.claim(world.clock(), world.clock(), 1)  # Another worker had it before.
    world.chain.fail("estimate_gas", ChainUnavailableError("gone"))
    world.clock.now += CLAIM_TIME

    with capture_logs() as logs:
        world.worker_with(altered(world.lifecycle, postpone=unsaved)).work()

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("refund-delayed", "chain-unavailable"),
        ("refund-held", "store-unavailable"),
    ]
    assert world.worker.work() == 0
    assert world.work() == 3
    assert world.statuses([refund]) == [Status.BROADCAST]


def test_an_unreadable_ring_does_not_stop_the_pass(world: World) -> None:
    """No wallet is checked, and refunds are tracked."""
    refund = world.broadcast()
    world.chain.mine()
    worker = world.worker
    worker._ring = altered(world.ring, current_keys=StoreUnavailableError("gone"))
    with capture_logs() as logs:
        worker.work()

    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("wallet-check-failed", "store-unavailable")
    ]
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


def test_a_key_that_never_paid_is_retired(world: World) -> None:
    """Neither ledger nor chain has a transaction of it (O4)."""
    other = signer_over(honest(bitcurve.PrivateKey.from_int(99)))
    assert world.ring.active().key.address == world.signer.address
    world.others = (other,)
    made_active(world.store, key_at(other.address))

    world.worker.work()

    active, former = world.store.keys()
    assert (active.state, former.state) == (KeyState.ACTIVE, KeyState.RETIRED)
