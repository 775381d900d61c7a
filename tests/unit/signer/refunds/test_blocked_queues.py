"""Refunds that cannot be paid take no time from those that can."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

import pytest
from structlog.testing import capture_logs

from signer.errors import (
    ChainUnavailableError,
    HotWalletError,
    SigningStoppedError,
    WalletPausedError,
)
from signer.model.refund import HOLD, Refund
from signer.model.stop import Stop
from signer.model.tenant_block import TenantBlock
from signer.model.wallet import Pause
from signer.refunds.blocked_queues import BlockedQueues
from signer.refunds.worker import _FIRST_CLAIM
from tests.support.refunds import World, altered
from tests.support.sweeps import Left, swept


_COUNT = 5 * _FIRST_CLAIM


def _pause(world: World) -> None:
    """Pause the wallet; the chain is ahead, so that it stays paused."""
    world.broadcast()
    world.chain.mine()
    world.chain.mine_foreign(world.signer.address)
    world.store.pause(world.wallet, Pause.CHAIN_AHEAD, world.clock())


def _stop(world: World) -> None:
    chain_id = world.network.chain_id
    world.store.stop(Stop(chain_id, world.clock(), "a test", "cli:tests"))


def _block(world: World) -> None:
    world.store.block_tenant(TenantBlock("gateway", world.clock(), "cli:tests"))


def _disconnect(world: World) -> None:
    error = ChainUnavailableError("no node answers")
    world.chain.fail("outlook", *[error] * _COUNT)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (_pause, "wallet-paused"),
        (_stop, "signing-stopped"),
        (_block, "tenant-blocked"),
        (_disconnect, "chain-unavailable"),
    ],
    ids=["paused", "stopped", "blocked", "disconnected"],
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
    assert [(each.blocked_by, each.attempts) for each in after] == [(code, 1)] * _COUNT
    assert sum(claims) == _FIRST_CLAIM
    assert [each["refunds"] for each in logs if each["event"] == "queue-delayed"] == [
        _COUNT - _FIRST_CLAIM
    ]


def _counting(world: World) -> list[int]:
    """Return a list that gets the number of queued refunds of each claim."""
    store, claims = world.store, list[int]()

    def claim(now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        claimed = store.claim(now, until, limit)
        claims.append(sum(refund.sender is None for refund in claimed))
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
    world: World,
    refund: Refund,
    error: HotWalletError,
    failing: Collection[str] = (),
) -> bool:
    """Return whether another refund is postponed after *refund* has failed."""
    other = world.accepted()
    world.clock.now += HOLD
    BlockedQueues(world.store, world.clock).postpone([(refund, error)], failing)
    return world.stored(other) != other
