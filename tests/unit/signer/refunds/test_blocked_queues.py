"""Refunds that cannot be paid take no time from those that can."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import (
    ChainUnavailableError,
    HotWalletError,
    PolicyViolationError,
    SigningStoppedError,
    WalletPausedError,
)
from signer.model.audit_record import Actor
from signer.model.hold import Hold
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from signer.model.wallet import Pause
from signer.refunds.blocked_queues import BlockedQueues
from signer.refunds.saved_steps import Moving, delay_after
from signer.refunds.worker import _FIRST_CLAIM
from tests.support.other_payments import Left, swept
from tests.support.refunds import World, altered


_COUNT = 2 * _FIRST_CLAIM


def _pause(world: World) -> None:
    """Pause the wallet; the chain is ahead, so that it stays paused."""
    world.broadcast()
    world.chain.mine()
    world.chain.mine_foreign(world.signer.address)
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())


def _stop(world: World) -> None:
    chain_id = world.network.chain_id
    stop = Hold.of_chain(chain_id, world.clock(), "a test", "cli:tests")
    world.store.begin_hold(stop)


def _stop_token(world: World) -> None:
    world.holds.stop("local", Actor("cli:tests").because("odd mints"), token="TUSD")


def _block(world: World) -> None:
    world.store.begin_hold(Hold.of_tenant("gateway", world.clock(), "", "cli:tests"))


def _disconnect(world: World) -> None:
    error = ChainUnavailableError("no node answers")
    world.chain.fail("preflight", *[error] * _COUNT)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (_pause, "wallet-paused"),
        (_stop, "signing-stopped"),
        (_stop_token, "token-stopped"),
        (_block, "tenant-blocked"),
        (_disconnect, "chain-unavailable"),
    ],
    ids=["paused", "stopped", "token", "blocked", "disconnected"],
)
def test_a_blocked_queue_is_tried_once(
    world: World, block: Callable[[World], None], code: str
) -> None:
    """The first claim shows what blocks it, and the rest is not claimed."""
    waiting = [world.accepted() for _ in range(_COUNT)]
    block(world)
    claims = _counting(world)
    with capture_logs() as logs:
        world.work()

    after = [world.stored(refund) for refund in waiting]
    assert [(each.moving.blocked_by, each.moving.attempts) for each in after] == [
        (code, 1)
    ] * _COUNT
    assert sum(claims) == _FIRST_CLAIM
    assert [each["refunds"] for each in logs if each["event"] == "queue-delayed"] == [
        _COUNT
    ]
    assert [each for each in logs if each["event"] == "refund-delayed"] == []


def test_a_token_at_its_limit_waits_as_a_queue(world: World) -> None:
    """Another tenant's refund and another token's are paid in the same pass."""
    world.change_token(hourly_limit="100")
    world.tenants = TenantRegistry(
        {name: Tenant(subjects=(name,)) for name in ("gateway", "shop")}
    )
    waiting = [world.accepted(amount="200") for _ in range(_COUNT)]
    other = world.accepted(tenant="shop")
    claims = _counting(world)
    with capture_logs() as logs:
        world.work()

    after = [world.stored(refund) for refund in waiting]
    assert {(each.moving.blocked_by, each.moving.attempts) for each in after} == {
        ("limit-reached", 1)
    }
    assert world.stored(other).status is Status.BROADCAST
    assert sum(claims) == 2
    assert [
        (each["event"], each["tenant"], each["token"], each["refunds"])
        for each in logs
        if each["log_level"] != "info"
    ] == [("queue-delayed", "gateway", "TUSD", _COUNT)]


def test_what_is_barred_alone_delays_no_other(world: World) -> None:
    """The token works for another refund, so its queue is not postponed."""
    world.change_token(hourly_limit="100")
    barred = [world.accepted(amount="200") for _ in range(2)]
    others = [world.accepted(amount="0.1") for _ in range(_COUNT)]
    world.clock.now += CLAIM_TIME
    worker = world.worker
    worker._timer = world._timer  # A pass takes no time.
    with capture_logs() as logs:
        worker.work()

    assert [world.stored(each).moving.blocked_by for each in barred] == [
        "limit-reached"
    ] * 2
    assert set(world.statuses(others)) == {Status.BROADCAST}
    assert [each["refunds"] for each in logs if each["event"] == "queue-delayed"] == [2]


def test_a_queue_of_one_has_the_line_of_its_refund(world: World) -> None:
    refund, error = world.accepted(), PolicyViolationError("no", rule="a-rule")
    world.store.claim(world.clock(), world.clock() + CLAIM_TIME, 1)
    queues = BlockedQueues(world.store, world.clock)

    assert queues.postpone([(refund, error)], (), ()) == set()


def test_a_queue_has_one_line_a_minute(world: World) -> None:
    """Parts of it are tried at other times, each when its own delay is over."""
    world.change_token(hourly_limit="100")
    waiting = [world.accepted(amount="200") for _ in range(_COUNT)]
    world.clock.now += CLAIM_TIME
    worker, minutes = world.worker, 3
    with capture_logs() as logs:
        for _ in range(60 * minutes):
            worker.advance()
            world.clock.advance(seconds=1)

    assert [each["event"] for each in logs] == ["queue-delayed"] * minutes
    assert min(world.stored(each).moving.attempts for each in waiting) > minutes


def test_the_rest_of_a_queue_is_tried_first(world: World) -> None:
    """One that is barred for ever must not be the first each time."""
    (barred, other) = (world.accepted() for _ in range(2))
    error = PolicyViolationError("no", rule="a-rule")
    world.clock.now += CLAIM_TIME
    until = world.clock() + delay_after(barred.moving.attempts)
    BlockedQueues(world.store, world.clock).postpone([(barred, error)], (), ())

    assert world.clock() < world.stored(other).moving.due_at < until


def _counting(world: World) -> list[int]:
    """Return a list that gets the number of queued refunds of each claim."""
    store, claims = world.store, list[int]()

    def claim(now: datetime, until: datetime, limit: int, **_: Any) -> Sequence[Moving]:
        claimed = store.claim(now, until, limit)
        claims.append(sum(isinstance(each, Refund) for each in claimed))
        return claimed

    world.store = altered(store, claim=claim)
    return claims


def test_a_sweep_blocks_no_queue(world: World, left: Left) -> None:
    """It has another wallet than the refunds."""
    (sweep,) = swept(world)

    assert _is_queue_postponed(world, sweep, WalletPausedError("paused")) is False


def test_a_reserved_refund_blocks_no_queue(world: World) -> None:
    """Its step is another one."""
    reserved = world.step(world.accepted())

    assert _is_queue_postponed(world, reserved, SigningStoppedError("no")) is False


@pytest.mark.parametrize("failing", [set(), {"local"}], ids=["one", "all"])
def test_nodes_may_fail_for_one_refund_only(world: World, failing: set[str]) -> None:
    refund, error = world.accepted(), ChainUnavailableError("no quorum")

    assert _is_queue_postponed(world, refund, error, failing) is bool(failing)


def _is_queue_postponed(
    world: World, refund: Refund, error: HotWalletError, failing: Collection[str] = ()
) -> bool:
    """Return whether another refund is postponed after *refund* has failed."""
    other = world.accepted()
    world.clock.now += CLAIM_TIME
    BlockedQueues(world.store, world.clock).postpone([(refund, error)], (), failing)
    return world.stored(other) != other
