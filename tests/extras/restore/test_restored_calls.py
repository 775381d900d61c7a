"""Calls of a restored ledger: no memo names them, so their content and the log do."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from api.extras.restore.plan import LostChanges, rebuild
from signer.errors import RowNotAuthenticError
from signer.model.audit_record import Record
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
from tests.support.refunds import CUSTOMER, World, altered
from tests.support.restores import requested


Backup = Callable[[], Ledger]


@pytest.fixture
def ruling(world: World) -> World:
    """A service whose operator permits some calls, and which has paid before."""
    return ruled(world, RULES)


def _paid_before(world: World) -> None:
    world.step(requested(world, "before"), times=3)
    world.settle()


def _made(world: World) -> int:
    """Return how many transactions on the chain call the contract."""
    mined = [sent for sent, _ in world.chain._mined.values()]
    return sum((each.to, each.data) == (CONTRACT, PING) for each in mined)


def _restored(world: World, store: Ledger, log: Sequence[Record] | None = None) -> None:
    """Let the ledger be *store*; with *log*, restore it as an operator does."""
    records = list(log or ())
    world.store = store
    world.ring.active()
    if log is not None:
        world.restore(records)


def _state_marks(world: World) -> None:
    world.work()
    world.state_marks()


def test_the_log_has_the_whole_call(ruling: World, log: Sequence[Record]) -> None:
    """Its calldata as well, also of one that sends coin only or has no coin."""
    calls = [called(ruling), called(ruling, **CALL_REQUEST)]

    lost = LostChanges(log).refunds

    for call in calls:
        record = lost[call.id].accepted
        assert record is not None
        at = call.updated_at
        assert rebuild(record, at) == replace(call, due_at=at)


@pytest.mark.parametrize("changes", [{}, CALL_REQUEST], ids=["coin", "call"])
def test_a_lost_call_gets_its_nonce_back(
    ruling: World, log: Sequence[Record], backup: Backup, changes: dict[str, str]
) -> None:
    """It is found by nonce and content, or sent with the same nonce (R24)."""
    _paid_before(ruling)
    copy = backup()
    calls = [called(ruling, **changes) for _ in range(3)]
    for steps, call in zip((3, 2, 1), calls, strict=True):
        ruling.step(call, times=steps)
        if steps == 3:
            ruling.mine_deep()

    _restored(ruling, copy, log)
    ended = ruling.finish(*calls)

    assert [each.nonce for each in ended] == [1, 2, 3]
    assert {each.status for each in ended} == {Status.CONFIRMED}
    assert len(ruling.chain._mined) == 4
    # The reserved limit was the largest one; each needs no more than any other.
    assert {sent.gas_limit for sent, _ in ruling.chain._mined.values()} == {62_500}


def test_a_queued_call_that_was_made_is_not_made_again(
    ruling: World, log: Sequence[Record], backup: Backup
) -> None:
    """Without the log, too: an unknown transaction of its content is its (R24)."""
    _paid_before(ruling)
    call = called(ruling, **CALL_REQUEST)
    copy = backup()
    ruling.step(call, times=3)
    hash_ = ruling.sent(call).tx_hash
    ruling.mine_deep()

    _restored(ruling, copy)
    ruling.work()
    paused = ruling.wallet
    _state_marks(ruling)
    (ended,) = ruling.finish(call)

    assert paused.paused_by is Pause.RESTORED
    assert (ended.status, ended.tx_hash, ended.nonce) == (Status.CONFIRMED, hash_, 1)
    assert _made(ruling) == 1


@pytest.mark.parametrize("made", [1, 2])
def test_of_equal_calls_each_transaction_is_one(
    ruling: World, log: Sequence[Record], backup: Backup, made: int
) -> None:
    """As many are made as were asked for, whichever of them the chain has (R24)."""
    _paid_before(ruling)
    calls = [called(ruling, **CALL_REQUEST) for _ in range(2)]
    copy = backup()
    for call in calls[:made]:
        ruling.step(call, times=3)
        ruling.mine_deep()

    _restored(ruling, copy)
    _state_marks(ruling)
    ended = ruling.finish(*calls)

    assert {each.status for each in ended} == {Status.CONFIRMED}
    assert len({each.tx_hash for each in ended}) == 2
    assert _made(ruling) == 2


def test_a_transaction_of_a_nonce_that_another_row_has(
    ruling: World, log: Sequence[Record], backup: Backup
) -> None:
    """The queued call of its content ends: it is made, and cannot have the nonce."""
    _paid_before(ruling)
    call = called(ruling, **CALL_REQUEST)
    copy = backup()
    ruling.step(call, times=3)
    ruling.chain.forget()

    ruling.store = copy
    other = ruling.step(requested(ruling, "other"), times=3)
    ruling.chain.forget()
    ruling.chain.mine_foreign(ruling.signer.address, PING, to=CONTRACT)
    ruling.chain.mine_empty(5)
    ruling.step(other)
    ruling.state_marks()
    (ended,) = ruling.finish(call)

    assert ruling.stored(other).failure_code == "nonce-taken"
    assert (ended.status, ended.failure_code) == (Status.REFUSED, "already-paid")
    assert _made(ruling) == 1


@pytest.mark.parametrize(
    ("to", "value", "data"),
    [
        (CUSTOMER, COIN_SENT, PING),
        (CONTRACT, 1, PING),
        (CONTRACT, 0, PING + b"\0"),
    ],
    ids=["recipient", "coin", "calldata"],
)
def test_a_transaction_of_another_content_is_foreign(
    ruling: World, to: str, value: int, data: bytes
) -> None:
    """Only an operator can explain it."""
    _paid_before(ruling)
    called(ruling, **CALL_REQUEST)
    ruling.chain.mine_foreign(ruling.signer.address, data, to=to, value=value)
    ruling.chain.mine_empty(5)

    status = ruling.reconcile()

    assert [each.memo for each in status.foreign] == [None]


def test_a_call_that_is_mined_explains_nothing_else(ruling: World) -> None:
    """An equal transaction beside it is foreign."""
    _paid_before(ruling)
    call = ruling.step(called(ruling, **CALL_REQUEST), times=3)
    ruling.chain.mine()
    ruling.tracked(call)
    ruling.chain.mine_foreign(ruling.signer.address, PING, to=CONTRACT)
    ruling.chain.mine_empty(5)

    status = ruling.reconcile()

    assert [each.memo for each in status.foreign] == [None]


def test_of_two_equal_transactions_one_call_explains_one(ruling: World) -> None:
    """The other one is foreign, in the same pass and in a later one."""
    _paid_before(ruling)
    call = called(ruling, **CALL_REQUEST)
    for count in (2, 1):
        for _ in range(count):
            ruling.chain.mine_foreign(ruling.signer.address, PING, to=CONTRACT)
        ruling.chain.mine_empty(5)
        status = ruling.reconcile()

    found = ruling.store.find_unrecorded(call.chain_id, [call.memo])
    assert found[call.memo].nonce == 1
    assert [each.nonce for each in status.foreign] == [2, 3]


def test_a_changed_row_explains_nothing(ruling: World) -> None:
    """The wallet stays paused: its transaction is recorded once the row is right."""
    _paid_before(ruling)
    call = called(ruling, **CALL_REQUEST)
    forged: Sequence[Refund] = [replace(call, mac=None)]
    store = ruling.store
    ruling.store = altered(store, open_calls=lambda _: forged)
    ruling.chain.mine_foreign(ruling.signer.address, PING, to=CONTRACT)
    ruling.chain.mine_empty(5)

    with pytest.raises(RowNotAuthenticError):
        ruling.reconcile()

    assert store.wallet(call.chain_id, ruling.signer.address).is_paused  # type: ignore[union-attr]
