"""The rules that stop a network, and that never resume it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.config.networks import AutomaticStopRules as Rules
from signer.errors import ChainError, StoreUnavailableError
from signer.model.audit_record import Actor
from signer.model.hold import EVERYTHING, Hold, name_of_chain
from signer.model.refund import Status
from signer.model.transaction import CLAIM_TIME
from signer.refunds.automatic_stop import AutomaticStop
from tests.fixtures.ledger import forged_end, stopped
from tests.fixtures.unbatched import Unbatched
from tests.support.ledgers import seal
from tests.support.other_payments import left_behind, swept
from tests.support.refunds import NETWORK, World, altered, altered_chain


ALICE = Actor("token:alice")
CHAIN = NETWORK.chain_id


def _world(store: SQLStore, **rules: Any) -> World:
    """Return a world whose network has *rules*."""
    network = NETWORK.model_copy(update={"automatic_stop": Rules(**rules)})
    return World(store, network=network)


def _reason(world: World) -> str | None:
    """Evaluate the rules as a new worker, and return why it stopped or blocked."""
    world.automatic_stop.check()
    stop = world.store.find_stop(CHAIN)
    if stop is not None:
        return stop.reason
    if not _blocked(world):
        return None
    seal(world.store)
    records = [each.record.fields for each in world.store.sealed(0, 1000)]
    event = ("tenant-block-succeeded", "worker")
    blocks = [each for each in records if (each["event"], each["actor"]) == event]
    return str(blocks[-1]["details"]["reason"])


def _blocked(world: World) -> list[str]:
    return [each.tenant for each in world.store.blocks()]


def _failed(world: World, count: int, **changes: Any) -> None:
    for _ in range(count):
        refund = world.broadcast(**changes)
        world.chain.mine(lambda receipt: replace(receipt, succeeded=False))
        world.chain.mine_empty(5)
        while not world.stored(refund).status.is_final:
            world.confirmation_tracker.track()
        assert world.stored(refund).status is Status.FAILED


def test_too_many_refunds(sqlite_store: SQLStore) -> None:
    """The limit is allowed; one more stops the network, with an audit record."""
    world = _world(sqlite_store, max_refunds=2, window_minutes=5)
    for tenant in ("gateway", "shop"):
        world.broadcast(tenant=tenant)
    before = _reason(world)
    for tenant in ("gateway", "shop", "gateway", "shop"):
        world.broadcast(tenant=tenant)
    reason = _reason(world)
    stop = sqlite_store.find_stop(CHAIN)
    seal(sqlite_store)
    records = [each.record.fields for each in sqlite_store.sealed(0, 100)]
    (done,) = [each for each in records if each["event"] == "signing-stop-succeeded"]

    assert before is None
    assert reason == "automatic: more than 2 refunds in 5 minutes"
    assert stop is not None
    assert (stop.chain_id, stop.requested_by) == (CHAIN, "worker")
    assert (done["actor"], done["details"]["reason"]) == ("worker", reason)
    assert (stop.alert, json.loads(stop.evidence or "")) == (
        "signing-stopped",
        {
            "network": "local",
            "rule": "max_refunds",
            "largest": "2",
            "counted": "6",
            "tenants": {"gateway": "3", "shop": "3"},
        },
    )
    assert done["details"]["evidence"] == json.loads(stop.evidence or "")
    assert sqlite_store.alert_counts() == {"signing-stopped": 1}


def test_earlier_refunds_do_not_count(sqlite_store: SQLStore) -> None:
    world = _world(sqlite_store, max_refunds=2, window_minutes=5)
    for _ in range(4):
        world.broadcast()
        world.clock.now += timedelta(minutes=2)

    assert _reason(world) is None


def test_too_much_of_a_token(sqlite_store: SQLStore) -> None:
    """The message has both amounts, in whole tokens."""
    world = _world(sqlite_store, max_amounts={"TUSD": "25"})
    for _ in range(2):
        world.broadcast()
    before = _reason(world)
    world.broadcast()

    assert before is None
    assert _reason(world) == ("automatic: 37.500000 TUSD in 10 minutes, more than 25")


def test_too_much_gas(sqlite_store: SQLStore) -> None:
    """All gas limits of the last hour count."""
    world = _world(sqlite_store, max_gas_per_hour=21_000)
    before = _reason(world)
    refund = world.broadcast()

    assert before is None
    assert _reason(world) == (
        f"automatic: {refund.gas_limit} gas in an hour, more than 21000"
    )
    world.holds.unblock("gateway", ALICE)
    world.clock.now += timedelta(hours=2)
    assert _reason(world) is None


def test_too_many_failures(sqlite_store: SQLStore) -> None:
    """Above the percentage of the last results, once there are enough."""
    world = _world(sqlite_store, max_failed_percent=40, failed_of_last=5)
    _failed(world, 4)
    too_few = _reason(world)
    world.paid()

    assert too_few is None
    assert _reason(world) == "automatic: 4 of the last 5 refunds failed"


def test_the_percentage_itself_is_allowed(sqlite_store: SQLStore) -> None:
    world = _world(sqlite_store, max_failed_percent=40, failed_of_last=5)
    _failed(world, 2)
    for _ in range(3):
        world.paid()

    assert _reason(world) is None


@pytest.mark.parametrize("chain_id", [CHAIN, EVERYTHING])
def test_only_later_refunds_count_after_a_resume(
    sqlite_store: SQLStore, chain_id: int
) -> None:
    """An operator has judged the others; the rule does not stop again at once."""
    world = _world(sqlite_store, max_refunds=1, max_failed_percent=10, failed_of_last=5)
    _failed(world, 5)
    world.clock.now += timedelta(seconds=1)
    stopped(sqlite_store, chain_id, world.clock())
    sqlite_store.end_hold(name_of_chain(chain_id), world.clock())
    world.clock.now += timedelta(seconds=1)
    after_resume = _reason(world)
    for _ in range(2):
        world.broadcast()

    assert after_resume is None
    assert _reason(world) == "automatic: more than 1 refunds in 10 minutes"


def test_nothing_resumes_by_itself(sqlite_store: SQLStore) -> None:
    """A worker that stopped the network signs nothing until an operator resumes."""
    world = _world(sqlite_store, max_refunds=1)
    for tenant in ("gateway", "shop", "gateway", "shop"):
        world.broadcast(tenant=tenant)
    waiting = world.accepted()
    world.work()
    for _ in range(3):
        world.work(after=timedelta(hours=3))
    blocked = world.stored(waiting)
    world.holds.resume("local", ALICE.because("explained"))
    world.work(after=timedelta(seconds=60))

    assert (blocked.status, blocked.moving.blocked_by) == (
        Status.QUEUED,
        "signing-stopped",
    )
    assert world.stored(waiting).status is Status.BROADCAST


@pytest.mark.parametrize("chain_id", [CHAIN, EVERYTHING])
def test_a_stop_in_force_keeps_its_reason(
    sqlite_store: SQLStore, chain_id: int
) -> None:
    world = _world(sqlite_store, max_refunds=1)
    for _ in range(2):
        world.broadcast()
    stopped(sqlite_store, chain_id, world.clock())

    assert _reason(world) == "a test"
    assert len(sqlite_store.stops()) == 1


def test_sweeps_count_for_their_gas_only(sqlite_store: SQLStore) -> None:
    """They pay the wallet itself."""
    world = _world(
        sqlite_store, max_refunds=1, max_amounts={"TUSD": "20"}, window_minutes=60
    )
    left_behind(world)
    for row in swept(world):
        world.step(row, times=2)
        assert world.store.transactions(row.id)

    assert _reason(world) is None
    hour = world.clock() - timedelta(hours=1)
    signed = sqlite_store.signed_by_tenant(CHAIN, hour)
    assert sum(each.gas for each in signed.values()) > 70_000


@pytest.mark.parametrize("chain_id", [CHAIN, EVERYTHING])
def test_a_changed_stop_is_an_alert(sqlite_store: SQLStore, chain_id: int) -> None:
    """It is in force, so that the rules need not stop the network again."""
    world = _world(sqlite_store, max_refunds=1)
    for _ in range(2):
        world.broadcast()
    stopped(sqlite_store, chain_id, world.clock())
    forged_end(sqlite_store)
    world.automatic_stop.check()

    assert sqlite_store.alert_counts() == {"row-not-authentic": 1}
    assert [stop.chain_id for stop in sqlite_store.stops()] == [chain_id]


def test_a_changed_stop_of_another_chain(sqlite_store: SQLStore) -> None:
    """The rules of a network do not depend on it."""
    world = _world(sqlite_store, max_refunds=1)
    stopped(sqlite_store, 999_999, world.clock())
    forged_end(sqlite_store)
    for _ in range(2):
        world.broadcast()

    assert _reason(world) == "automatic: more than 1 refunds in 10 minutes"


def test_without_rules_nothing_is_read(sqlite_store: SQLStore) -> None:
    """The default is off, and costs nothing."""
    world = World(altered(sqlite_store, stops=StoreUnavailableError("read")))

    world.automatic_stop.check()


def test_rules_use_little_of_the_database(sqlite_store: SQLStore) -> None:
    """Seldom enough, also if it takes long, that the database has time for refunds."""
    times = iter([0, 0, 0, 0.01, 0.04, 0.06, 0.06, 1.06, 21.0, 22.2, 22.2, 22.2])
    reads = []

    def stops() -> tuple[()]:
        reads.append(True)
        return ()

    world = _world(sqlite_store, max_refunds=1)
    rules = AutomaticStop(
        altered(sqlite_store, stops=stops),
        world.holds,
        {"local": world.network},
        world.clock,
        alarm=world.row_alarm,
        timer=lambda: next(times),
    )
    counts = []
    for _ in range(6):
        rules.check()
        counts.append(len(reads))

    # The second evaluation took a second, after which it rests for 20 seconds.
    assert counts == [1, 1, 1, 2, 2, 3]


def test_a_burst_exceeds_a_rule_by_one_batch(sqlite_store: SQLStore) -> None:
    """The rules are evaluated again before the next batch is signed (R27)."""
    world = _world(sqlite_store, max_refunds=4)
    world.work()  # Opens the wallet.
    refunds = [world.accepted() for _ in range(30)]
    world.clock.now += CLAIM_TIME

    def broadcast_all(raws: Sequence[bytes]) -> Sequence[ChainError | None]:
        world.clock.advance(seconds=0.1)
        return Unbatched.broadcast_all(world.chain, raws)

    world.client = altered_chain(world.chain, broadcast_all=broadcast_all)
    worker = world.worker
    worker._timer = worker._automatic_stop.timer
    worker._claim_size = 8

    with capture_logs():
        worker.advance()

    assert world.statuses(refunds).count(Status.BROADCAST) == 8
    assert _blocked(world) == ["gateway"]


def test_one_tenant_does_not_stop_the_others(sqlite_store: SQLStore) -> None:
    """Forty refunds of one unit block their tenant; another one is paid meanwhile."""
    world = _world(sqlite_store, max_refunds=20)
    world.broadcast(tenant="shop")
    for _ in range(40):
        world.broadcast(tenant="hostile", amount="0.000001")
    waiting = world.accepted("hostile")
    world.holds.block("idle", ALICE)
    reason = _reason(world)
    paid = world.paid(tenant="shop")
    again = _reason(world)

    assert reason == again == "automatic: more than 20 refunds in 10 minutes"
    assert _blocked(world) == ["hostile", "idle"]
    assert sqlite_store.find_stop(CHAIN) is None
    assert (paid.status, world.stored(waiting).status) == (
        Status.CONFIRMED,
        Status.QUEUED,
    )
    assert sqlite_store.alert_counts() == {"signing-stopped": 1}


@pytest.mark.parametrize(
    "rules",
    [
        {"max_amounts": {"TUSD": "60"}},
        {"max_gas_per_hour": 400_000},
        {"max_failed_percent": 50, "failed_of_last": 8},
    ],
    ids=str,
)
def test_each_rule_blocks_first(sqlite_store: SQLStore, rules: Any) -> None:
    """The tenant with the largest share, if the rule holds without it."""
    world = _world(sqlite_store, **rules)
    _failed(world, 2, tenant="shop")
    _failed(world, 6, tenant="hostile")

    assert _reason(world) is not None
    assert (_blocked(world), sqlite_store.find_stop(CHAIN)) == (["hostile"], None)


def test_only_what_comes_after_an_unblock_counts(sqlite_store: SQLStore) -> None:
    """An operator has judged the rest, also of failures."""
    world = _world(sqlite_store, max_refunds=2, max_failed_percent=50, failed_of_last=5)
    _failed(world, 5)
    blocked = _reason(world)
    world.clock.now += timedelta(seconds=1)
    world.holds.unblock("gateway", ALICE)
    world.clock.now += timedelta(seconds=1)
    after = _reason(world)
    for _ in range(3):
        world.broadcast()

    assert blocked is not None
    assert after is None
    assert _reason(world) == "automatic: more than 2 refunds in 10 minutes"


def test_two_workers_block_once(sqlite_store: SQLStore) -> None:
    """Both see that a rule is broken: one blocks the tenant, with one alert."""
    world = _world(sqlite_store, max_refunds=2)
    for _ in range(3):
        world.broadcast()

    def last_blocks() -> Sequence[Hold]:
        read = sqlite_store.last_blocks()
        world.automatic_stop.check()
        return read

    slower = AutomaticStop(
        altered(sqlite_store, last_blocks=last_blocks),
        world.holds,
        {"local": world.network},
        world.clock,
        alarm=world.row_alarm,
    )
    slower.check()

    assert (_blocked(world), sqlite_store.find_stop(CHAIN)) == (["gateway"], None)
    assert sqlite_store.alert_counts() == {"signing-stopped": 1}


def test_sweeps_are_no_tenant(sqlite_store: SQLStore) -> None:
    """Too much gas of sweeps stops the network: there is no tenant to block."""
    world = _world(sqlite_store, max_gas_per_hour=30_000)
    left_behind(world)
    for row in swept(world):
        world.step(row, times=2)
    world.clock.now += timedelta(minutes=30)

    assert (_reason(world) or "").endswith("gas in an hour, more than 30000")
    assert sqlite_store.find_stop(CHAIN) is not None
