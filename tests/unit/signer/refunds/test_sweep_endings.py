"""Sweeps end with a code when their recipient is no longer the active key."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import structlog

from signer.audit.log import AuditLog
from signer.crypto.transactions import SignedBytes
from signer.errors import (
    ConflictError,
    HotWalletError,
    KeyRotatedError,
    KeyUnusableError,
    SigningStoppedError,
)
from signer.model.refund import Status
from signer.model.transaction import Kind, Transaction
from signer.ports.ledger import Ledger
from tests.fixtures.ledger import stopped
from tests.support.devices import honest, signer_over
from tests.support.other_payments import TOKENS, Left, rolled_back, sweeper, swept
from tests.support.refunds import KEY, SECOND, THIRD, World, altered


def _paid_to_second(world: World) -> int:
    return sum(amount for to, amount in world.chain.payouts() if to == SECOND.address)


def _revoke_second(world: World) -> None:
    world.rotate(THIRD, block=True)


def _rotate(world: World) -> None:
    world.rotate(THIRD)


def _roll_back_and_rotate(world: World) -> None:
    rolled_back(world)
    world.rotate(THIRD)


@pytest.mark.parametrize(
    "change", [_revoke_second, _rotate, rolled_back, _roll_back_and_rotate]
)
@pytest.mark.parametrize(
    ("steps", "status", "kinds"),
    [
        (0, Status.REFUSED, []),
        (1, Status.FAILED, [Kind.NOOP]),
        (2, Status.FAILED, [Kind.TRANSFER, Kind.NOOP]),
        (3, Status.FAILED, [Kind.TRANSFER, Kind.NOOP]),
    ],
    ids=["queued", "reserved", "signed", "broadcast"],
)
def test_a_sweep_ends_when_the_key_is_rotated(
    world: World,
    left: Left,
    change: Callable[[World], None],
    *,
    steps: int,
    status: Status,
    kinds: list[Kind],
) -> None:
    """A no-op uses its nonce; no address is paid that is no longer active."""
    (row,) = swept(world)
    world.step(row, times=steps)
    sent = len(world.chain.broadcasts)
    change(world)
    (ended,) = world.finish(row)
    after = {SignedBytes.decode(raw) for raw in world.chain.broadcasts[sent:]}

    assert (ended.status, ended.failure_code) == (status, "sweep-outdated")
    assert [each.kind for each in world.store.transactions(row.id)] == kinds
    assert (ended.nonce is None) == (not kinds)
    assert {each.transaction.to for each in after} <= {world.signer.address}
    assert _paid_to_second(world) == 0


def test_a_queued_sweep_ends_while_signing_is_stopped(world: World, left: Left) -> None:
    """It does not wait for `resume` or a node, and so pays no revoked key."""
    (row,) = swept(world)
    stopped(world.store, at=world.clock())
    with pytest.raises(SigningStoppedError):
        world.step(row)
    world.rotate(THIRD, block=True)

    assert world.step(row).failure_code == "sweep-outdated"


def test_a_broadcast_sweep_may_be_mined_before_the_noop(
    world: World, left: Left
) -> None:
    """The mined transaction counts."""
    (row,) = swept(world)
    world.step(row, times=3)
    world.chain.mine()
    world.rotate(THIRD, block=True)
    (ended,) = world.finish(row)

    assert (ended.status, _paid_to_second(world)) == (Status.CONFIRMED, TOKENS)


def test_signed_sweeps_are_stranded_with_their_recipient(
    world: World, left: Left
) -> None:
    """Sweeps to a revoked key that were signed are reported as stranded."""
    (row,) = swept(world)
    for steps in (0, 1):
        world.step(row, times=steps)
        assert world.store.stranded(SECOND.address, 9) == ()
        row = world.stored(row)
    world.step(row)

    assert world.store.stranded(SECOND.address, 9) == (row.id,)
    assert world.store.stranded(THIRD.address, 9) == ()


def test_a_rotation_during_the_reservation_is_noticed(world: World, left: Left) -> None:
    """The transaction that assigns the nonce checks again."""
    (row,) = swept(world)
    store = world.store

    def reserve(*given: Any, **how: Any) -> Sequence[Transaction | HotWalletError]:
        world.rotate(THIRD, block=True)
        return store.reserve_all(*given, **how)

    world.store = altered(store, reserve_all=reserve)
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-outdated")


def test_a_rotation_before_signing_is_noticed(world: World, left: Left) -> None:
    """The commit of the intent checks again, before a device is used."""
    store = world.store

    def append(*given: Any, **how: Any) -> None:
        world.rotate(THIRD, block=True)
        store.append(*given, **how)

    device = honest(KEY)
    journal = altered(store, append=append)
    world.signer = signer_over(
        device, AuditLog(structlog.get_logger("audit"), journal=journal)
    )
    (row,) = swept(world)
    row = world.step(row)
    with pytest.raises(KeyRotatedError):
        world.step(row)

    assert (device.calls, world._known[row.id].intent) == (0, None)
    assert world.step(row).failure_code == "sweep-outdated"
    assert world.sent(row).kind is Kind.NOOP


@pytest.mark.parametrize("steps", [0, 1], ids=["queued", "reserved"])
def test_a_sweep_of_a_blocked_key_ends(world: World, left: Left, steps: int) -> None:
    """O8: it loses its nonce with its key; a new sweep is refused."""
    (row,) = swept(world)
    world.step(row, times=steps)
    world.revoke()
    (ended,) = world.finish(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-key-blocked")
    assert ended.nonce is None
    with pytest.raises(ConflictError):
        sweeper(world).plan(world.signer.address)


def test_a_sweep_that_a_blocked_key_broadcast_continues(
    world: World, left: Left
) -> None:
    """O8: it pays the active key, and is broadcast again until it is mined."""
    (row,) = swept(world)
    world.step(row, times=3)
    world.revoke()
    (ended,) = world.finish(row)

    assert (ended.status, _paid_to_second(world)) == (Status.CONFIRMED, TOKENS)


def test_a_rotation_under_way_ends_no_sweep(world: World, left: Left) -> None:
    """While the former key is pending its sweep waits."""
    (row,) = swept(world)
    pending = world.store.begin_rotation(world.key, world.clock())
    with pytest.raises(KeyUnusableError):
        world.step(row)
    world.store.reject(pending, "abandoned", world.clock())

    assert world.step(row).status is Status.RESERVED


def test_a_lost_sweep_is_adopted(
    world: World, left: Left, backup: Callable[[], Ledger]
) -> None:
    """After a restore and a rotation, the repeated sweep is found paid."""
    older = backup()
    (row,) = swept(world)
    sent = world.step(row, times=3)
    world.settle()
    world.store = older
    (again,) = swept(world)
    world.reconcile()
    world.rotate(THIRD, block=True)
    found = world.step(again)

    assert (found.status, found.tx_hash) == (Status.MINED, sent.tx_hash)
