"""Sweeps end with a code when their recipient is no longer the active key."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog

from signer.audit.log import AuditLog
from signer.crypto.transactions import SignedBytes
from signer.errors import KeyRotatedError, KeyUnusableError, WalletPausedError
from signer.model.audit_record import Record
from signer.model.refund import Kind, Refund, Status
from signer.ports import Ledger
from tests.support.devices import honest, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import KEY, World, altered
from tests.support.sweeps import (
    NEW,
    THIRD,
    TOKENS,
    Left,
    given_up,
    rolled_back,
    settled,
    sweeper,
    swept,
)


def _paid_to_new(world: World) -> int:
    return sum(amount for to, amount in world.chain.payouts() if to == NEW.address)


def _worked(world: World, row: Refund, passes: int = 4) -> Refund:
    """Return *row* after that many worker passes with blocks in between."""
    for _ in range(passes):
        world.work(timedelta(seconds=31))
        world.mine_deep()
    return world.stored(row)


def _rotated(world: World) -> None:
    made_active(world.store, key_at(THIRD.address))


def _rolled_back_and_on(world: World) -> None:
    rolled_back(world)
    _rotated(world)


TURNS = pytest.mark.parametrize(
    "turn", [given_up, _rotated, rolled_back, _rolled_back_and_on]
)


@TURNS
def test_a_queued_sweep_ends_when_the_key_is_rotated(
    world: World, left: Left, turn: Any
) -> None:
    """It gets no nonce, and pays no address that is no longer active."""
    (row,) = swept(world)
    turn(world)
    ended = _worked(world, row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-outdated")
    assert (ended.nonce, _paid_to_new(world)) == (None, 0)


def test_a_queued_sweep_ends_on_a_paused_network_too(world: World, left: Left) -> None:
    """It does not wait for `nonce resume` or a node, and so pays no revoked key."""
    (row,) = swept(world)
    world.store.pause_network(world.network.chain_id, world.clock())
    with pytest.raises(WalletPausedError):
        world.step(row)
    given_up(world)

    assert world.step(row).failure_code == "sweep-outdated"


@TURNS
def test_a_reserved_sweep_ends_when_the_key_is_rotated(
    world: World, left: Left, turn: Any
) -> None:
    """A no-op uses its nonce at once, and the key is retired."""
    (row,) = swept(world)
    row = world.step(row)
    turn(world)
    signed = world.step(row)
    ended = _worked(world, row)

    assert world.sent(signed).kind is Kind.NOOP
    assert (ended.status, ended.failure_code) == (Status.FAILED, "sweep-outdated")
    assert _paid_to_new(world) == 0


@TURNS
def test_a_signed_sweep_is_not_broadcast_when_the_key_is_rotated(
    world: World, left: Left, turn: Any
) -> None:
    """No node gets its bytes: a no-op replaces them."""
    (row,) = swept(world)
    world.step(row, times=2)
    sent = len(world.chain.broadcasts)
    turn(world)
    ended = _worked(world, row)
    (noop,) = {SignedBytes.decode(raw) for raw in world.chain.broadcasts[sent:]}

    assert noop.transaction.to == world.signer.address
    assert (ended.status, ended.failure_code) == (Status.FAILED, "sweep-outdated")
    assert _paid_to_new(world) == 0


@TURNS
def test_a_broadcast_sweep_is_replaced_with_a_noop(
    world: World, left: Left, turn: Any
) -> None:
    """The no-op has higher fees, and wins unless the sweep is mined."""
    (row,) = swept(world)
    world.step(row, times=3)
    turn(world)
    ended = _worked(world, row)

    assert [sent.kind for sent in world.store.transactions(row.id)] == [
        Kind.TRANSFER,
        Kind.NOOP,
    ]
    assert (ended.status, ended.failure_code) == (Status.FAILED, "sweep-outdated")
    assert _paid_to_new(world) == 0


def test_a_broadcast_sweep_may_be_mined_before_the_noop(
    world: World, left: Left
) -> None:
    """The mined transaction counts."""
    (row,) = swept(world)
    world.step(row, times=3)
    world.chain.mine()
    given_up(world)
    ended = _worked(world, row)

    assert (ended.status, _paid_to_new(world)) == (Status.CONFIRMED, TOKENS)


def test_signed_sweeps_are_stranded_with_their_recipient(
    world: World, left: Left
) -> None:
    """Sweeps to a revoked key that were signed are reported as stranded."""
    (row,) = swept(world)
    for steps in (0, 1):
        world.step(row, times=steps)
        assert world.store.stranded(NEW.address, 9) == ()
        row = world.stored(row)
    world.step(row)

    assert world.store.stranded(NEW.address, 9) == (row.id,)
    assert world.store.stranded(THIRD.address, 9) == ()


def test_a_rotation_during_the_reservation_is_noticed(world: World, left: Left) -> None:
    """The transaction that assigns the nonce checks again."""
    (row,) = swept(world)
    store = world.store

    def reserve(*given: Any, **how: Any) -> Refund:
        given_up(world)
        return store.reserve(*given, **how)

    world.store = altered(store, reserve=reserve)
    ended = world.step(row)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-outdated")


def test_a_rotation_before_signing_is_noticed(world: World, left: Left) -> None:
    """The commit of the intent checks again, before a device is used."""
    store = world.store

    def append(*given: Any, **how: Any) -> None:
        given_up(world)
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

    assert (device.calls, row.intent_recorded) == (0, False)
    assert world.step(row).failure_code == "sweep-outdated"
    assert world.sent(row).kind is Kind.NOOP


def test_a_sweep_of_a_blocked_key_ends(world: World, left: Left) -> None:
    """O8: an unsigned sweep is not repeated without end; a new one is refused."""
    (queued,) = swept(world)
    key = world.ring.refresh()[1]
    at = world.clock()
    world.store.block(key, at, Record.of({"event": "key-revoke-succeeded"}, at))
    ended = _worked(world, queued)

    assert (ended.status, ended.failure_code) == (Status.REFUSED, "sweep-key-blocked")
    with pytest.raises(KeyUnusableError):
        sweeper(world).plan(world.signer.address)


def test_a_sweep_that_a_blocked_key_reserved_ends(world: World, left: Left) -> None:
    """O8: it loses its nonce with its key, and nothing waits for it."""
    (row,) = swept(world)
    world.step(row)
    key = world.ring.refresh()[1]
    at = world.clock()
    world.store.block(key, at, Record.of({"event": "key-revoke-succeeded"}, at))
    ended = _worked(world, row)

    assert (ended.status, ended.nonce) == (Status.REFUSED, None)


def test_a_sweep_that_a_blocked_key_broadcast_continues(
    world: World, left: Left
) -> None:
    """O8: it pays the active key, and is broadcast again until it is mined."""
    (row,) = swept(world)
    world.step(row, times=3)
    key = world.ring.refresh()[1]
    at = world.clock()
    world.store.block(key, at, Record.of({"event": "key-revoke-succeeded"}, at))
    ended = _worked(world, row)

    assert (ended.status, _paid_to_new(world)) == (Status.CONFIRMED, TOKENS)


def test_a_rotation_under_way_ends_no_sweep(world: World, left: Left) -> None:
    """While the former key is pending its sweep waits."""
    (row,) = swept(world)
    key = world.ring.refresh()[1]
    pending = world.store.begin_rotation(key, world.clock())
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
    settled(world)
    world.store = older
    (again,) = swept(world)
    world.reconcile()
    given_up(world)
    found = world.step(again)

    assert (found.status, found.tx_hash) == (Status.MINED, sent.tx_hash)
