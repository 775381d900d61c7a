"""Calls of a restored ledger: no memo names them, so their content and the log do."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from api.extras.restore.plan import LostChanges, rebuild
from signer.errors import RowNotAuthenticError
from signer.model.refund import Refund, Status
from signer.model.wallet import Pause
from signer.ports.ledger import Ledger
from tests.support.approvals import ruled
from tests.support.other_payments import (
    CALL_REQUEST,
    COIN_SENT,
    CONTRACT,
    PING,
    RULES,
    called,
)
from tests.support.refunds import CUSTOMER, altered
from tests.support.restores import Restored, requested


@pytest.fixture
def world(world: Restored) -> Restored:
    """A service whose operator permits some calls, and which has paid before."""
    ruled(world, RULES)
    world.step(requested(world, "before"), times=3)
    world.settle()
    return world


def _made(world: Restored) -> int:
    """Return how many transactions on the chain call the contract."""
    mined = [sent for sent, _ in world.chain._mined.values()]
    return sum((each.to, each.data) == (CONTRACT, PING) for each in mined)


def _lose(world: Restored, store: Ledger) -> None:
    world.store = store
    world.ring.active()


def _state_marks(world: Restored) -> None:
    world.work()
    world.state_marks()


def test_the_log_has_the_whole_call(world: Restored) -> None:
    """Its calldata as well, also of one that sends coin only or has no coin."""
    calls = [called(world), called(world, **CALL_REQUEST)]

    lost = LostChanges(world.log).refunds

    for call in calls:
        record = lost[call.id].accepted
        assert record is not None
        at = call.updated_at
        assert rebuild(record, at) == replace(call, due_at=at)


@pytest.mark.parametrize("changes", [{}, CALL_REQUEST], ids=["coin", "call"])
def test_a_lost_call_gets_its_nonce_back(
    world: Restored, changes: dict[str, str]
) -> None:
    """It is found by nonce and content, or sent with the same nonce (R24)."""
    copy = world.backup()
    calls = [called(world, **changes) for _ in range(3)]
    for steps, call in zip((3, 2, 1), calls, strict=True):
        world.step(call, times=steps)
        if steps == 3:
            world.mine_deep()

    records = list(world.log)
    _lose(world, copy)
    world.restore(records)
    ended = world.finish(*calls)

    assert [each.nonce for each in ended] == [1, 2, 3]
    assert {each.status for each in ended} == {Status.CONFIRMED}
    assert len(world.chain._mined) == 4
    # The reserved limit was the largest one; each needs no more than any other.
    assert {sent.gas_limit for sent, _ in world.chain._mined.values()} == {62_500}


def test_a_queued_call_that_was_made_is_not_made_again(world: Restored) -> None:
    """Without the log, too: an unknown transaction of its content is its (R24)."""
    call = called(world, **CALL_REQUEST)
    copy = world.backup()
    world.step(call, times=3)
    hash_ = world.sent(call).tx_hash
    world.mine_deep()

    _lose(world, copy)
    world.work()
    paused = world.wallet
    _state_marks(world)
    (ended,) = world.finish(call)

    assert paused.paused_by is Pause.RESTORED
    assert (ended.status, ended.tx_hash, ended.nonce) == (Status.CONFIRMED, hash_, 1)
    assert _made(world) == 1


@pytest.mark.parametrize("made", [1, 2])
def test_of_equal_calls_each_transaction_is_one(world: Restored, made: int) -> None:
    """As many are made as were asked for, whichever of them the chain has (R24)."""
    calls = [called(world, **CALL_REQUEST) for _ in range(2)]
    copy = world.backup()
    for call in calls[:made]:
        world.step(call, times=3)
        world.mine_deep()

    _lose(world, copy)
    _state_marks(world)
    ended = world.finish(*calls)

    assert {each.status for each in ended} == {Status.CONFIRMED}
    assert len({each.tx_hash for each in ended}) == 2
    assert _made(world) == 2


def test_a_transaction_of_a_nonce_that_another_row_has(world: Restored) -> None:
    """The queued call of its content ends: it is made, and cannot have the nonce."""
    call = called(world, **CALL_REQUEST)
    copy = world.backup()
    world.step(call, times=3)
    world.chain.forget()

    world.store = copy
    other = world.step(requested(world, "other"), times=3)
    world.chain.forget()
    world.chain.mine_foreign(world.signer.address, PING, to=CONTRACT)
    world.chain.mine_empty(5)
    world.step(other)
    world.state_marks()
    (ended,) = world.finish(call)

    assert world.stored(other).failure_code == "nonce-taken"
    assert (ended.status, ended.failure_code) == (Status.REFUSED, "already-paid")
    assert _made(world) == 1


@pytest.mark.parametrize(
    ("to", "value", "data"),
    [(CUSTOMER, COIN_SENT, PING), (CONTRACT, 1, PING), (CONTRACT, 0, PING + b"\0")],
    ids=["recipient", "coin", "calldata"],
)
def test_a_transaction_of_another_content_is_foreign(
    world: Restored, to: str, value: int, data: bytes
) -> None:
    """Only an operator can explain it."""
    called(world, **CALL_REQUEST)
    world.chain.mine_foreign(world.signer.address, data, to=to, value=value)
    world.chain.mine_empty(5)

    status = world.reconcile()

    assert [each.memo for each in status.foreign] == [None]


def test_a_call_that_is_mined_explains_nothing_else(world: Restored) -> None:
    """An equal transaction beside it is foreign."""
    call = world.step(called(world, **CALL_REQUEST), times=3)
    world.chain.mine()
    world.tracked(call)
    world.chain.mine_foreign(world.signer.address, PING, to=CONTRACT)
    world.chain.mine_empty(5)

    status = world.reconcile()

    assert [each.memo for each in status.foreign] == [None]


def test_of_two_equal_transactions_one_call_explains_one(world: Restored) -> None:
    """The other one is foreign, in the same pass and in a later one."""
    call = called(world, **CALL_REQUEST)
    for count in (2, 1):
        for _ in range(count):
            world.chain.mine_foreign(world.signer.address, PING, to=CONTRACT)
        world.chain.mine_empty(5)
        status = world.reconcile()

    found = world.store.find_unrecorded(call.chain_id, [call.memo])
    assert found[call.memo].nonce == 1
    assert [each.nonce for each in status.foreign] == [2, 3]


def test_a_changed_row_explains_nothing(world: Restored) -> None:
    """The wallet stays paused: its transaction is recorded once the row is right."""
    call = called(world, **CALL_REQUEST)
    forged: Sequence[Refund] = [replace(call, mac=None)]
    store = world.store
    world.store = altered(store, open_calls=lambda _: forged)
    world.chain.mine_foreign(world.signer.address, PING, to=CONTRACT)
    world.chain.mine_empty(5)

    with pytest.raises(RowNotAuthenticError):
        world.reconcile()

    assert store.wallet(call.chain_id, world.signer.address).is_paused  # type: ignore[union-attr]
