"""Fillers: no-ops for nonces that a restored ledger does not know."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from signer.errors import (
    ChainUnavailableError,
    ConfigurationError,
    RowNotAuthenticError,
    StaleStateError,
)
from signer.model.refund import Status
from signer.model.transaction import (
    Kind,
    Transaction,
    TransactionKind,
    TransactionStatus,
)
from signer.model.wallet import NOOP_MEMO, Pause
from signer.ports.chain import Fees
from signer.ports.ledger import Ledger
from signer.ports.meter import Meter
from signer.refunds.payload import transfer_of
from signer.refunds.saved_steps import Moving
from tests.fixtures.ledger import forge
from tests.fixtures.scripted_chain import CHAIN_ID, Sent
from tests.support.refunds import AMOUNT, CUSTOMER, World


def _filler(world: World, nonce: int) -> Transaction:
    """Return a filler for *nonce*; the wallet is open and restored."""
    world.ring.active()
    world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    return world.fill(nonce)


def _restored(world: World, mark: int) -> list[int]:
    """Pay once, and restore with the *mark*; return the nonces of the fillers."""
    world.paid()
    stated = {("local", world.signer.address): mark}
    world.restore(stated=stated, has_log=False)
    return _fillers(world)


def _fillers(world: World) -> list[int]:
    wallet = world.network.chain_id, world.signer.address
    found = (world.store.find_transaction(*wallet, nonce) for nonce in range(20))
    return [
        e.nonce for e in found if e is not None and e.kind is TransactionKind.FILLER
    ]


def test_a_filler_uses_its_nonce(world: World) -> None:
    """It sends nothing to the wallet itself, and ends when that is final (R24)."""
    filler = _filler(world, 0)

    signed = world.move(filler)
    world.move(signed)
    sent = Sent.read(world.chain.broadcasts[-1])
    (attempt,) = world.store.attempts(signed)
    world.settle()

    assert attempt.kind is Kind.NOOP
    assert (sent.to, sent.data, sent.nonce) == (world.signer.address, b"", 0)
    assert world.found(0).status is TransactionStatus.CONFIRMED
    assert world.chain.payouts() == []


def test_a_nonce_gets_one_filler(world: World) -> None:
    """However often the restore is repeated; and none that a refund has (R24)."""
    first = _filler(world, 0)
    refund = world.step(world.accepted())

    for nonce in (0, 1):
        with pytest.raises(StaleStateError):
            world.fill(nonce)
    assert world.found(0) == first
    assert world.stored(refund).nonce == 1


def test_a_wallet_resumes_when_its_nonces_are_filled(world: World) -> None:
    """A new refund gets the nonce after them."""
    fillers = _restored(world, 3)
    refund = world.accepted()

    (confirmed,) = world.finish(refund)

    assert fillers == [1, 2]
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, 3)
    assert not world.wallet.is_paused
    assert len(world.chain.payouts()) == 2


def test_a_revoked_key_fills_nothing(world: World) -> None:
    """The nonce is free again, and its wallet waits for an operator (O8)."""
    filler = _filler(world, 0)
    world.rotate(block=True)

    wallet = filler.chain_id, filler.sender
    assert world.store.find_transaction(*wallet, 0) is None
    assert world.store.unknown_nonces(*wallet, 1, 9) == (0,)


def test_a_forgotten_payment_that_is_requested_again(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """It is mined before the filler, and the request is answered with it (R24)."""
    world.paid()
    restored = backup()
    lost = world.broadcast(reference="forgotten")
    world.store = restored
    world.state_marks()
    again = world.accepted(reference="forgotten")
    world.work()
    world.mine_deep()

    (ended,) = world.finish(again)

    assert world.found(int(lost.nonce or 0)).status is TransactionStatus.FAILED
    assert (ended.status, ended.failure_code) == (Status.REFUSED, "already-paid")
    assert str(lost.tx_hash) in str(ended.failure_detail)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2
    assert not world.wallet.is_paused


def test_a_used_nonce_is_not_signed(world: World) -> None:
    """The transaction that used it is recorded (R24)."""
    filler = _filler(world, 0)
    refund = world.accepted()
    world.chain.mine_foreign(world.signer.address, transfer_of(refund).data)
    waiting = world.move(filler)
    world.chain.mine_empty(2)

    ended = world.move(waiting)

    assert waiting.status is TransactionStatus.RESERVED
    assert (ended.status, ended.tx_hash) == (TransactionStatus.FAILED, None)
    assert refund.memo in world.store.find_unrecorded(CHAIN_ID, [refund.memo])
    assert world.chain.broadcasts == []


def test_a_forgotten_noop_is_not_foreign(world: World) -> None:
    """Below the mark, a no-op is a cancellation or a filler of the lost time."""
    assert _restored(world, 2) == [1]
    world.chain.mine_foreign(world.signer.address, b"")
    world.chain.mine_empty(2)

    (confirmed,) = world.finish(world.accepted())

    assert world.found(1).status is TransactionStatus.FAILED
    assert NOOP_MEMO in world.store.find_unrecorded(CHAIN_ID, [NOOP_MEMO])
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, 2)


def test_a_noop_above_the_mark_is_foreign(world: World) -> None:
    """The mark says that the service has not signed it (R23)."""
    assert _restored(world, 2) == [1]
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_foreign(world.signer.address, b"")
    world.chain.mine_empty(2)
    for _ in range(3):
        world.work(after=timedelta(seconds=31))

    foreign = world.store.foreign_transactions(CHAIN_ID, world.signer.address)

    assert world.found(1).status is TransactionStatus.FAILED
    assert [each.nonce for each in foreign] == [1, 2]
    assert world.wallet.paused_by is Pause.RESTORED


def test_a_filler_is_replaced_when_fees_rise(world: World) -> None:
    """It stays a no-op with the same nonce (R18)."""
    assert _restored(world, 2) == [1]
    for _ in range(3):
        world.work(after=timedelta(seconds=31))
    world.chain.answers = Fees(base_fee=20 * 10**9, priority_fee=10**9)
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    for _ in range(4):
        world.work(after=timedelta(seconds=31))
    sent = world.store.attempts(world.found(1))

    ended = world.finish_nonce(1)

    fees = [each.max_fee_per_gas for each in sent]
    assert {(each.kind, each.nonce) for each in sent} == {(Kind.NOOP, 1)}
    assert fees == sorted({*fees})
    assert fees[-1] > 20 * 10**9
    assert ended.status is TransactionStatus.CONFIRMED


@pytest.mark.parametrize("keep", [True, False])
def test_a_filler_that_a_reorganisation_removes(world: World, keep: bool) -> None:
    """It is sent again (R19)."""
    world.move(_filler(world, 0), times=2)
    world.chain.mine()
    world.confirmation_tracker.track()
    mined = world.found(0)
    world.chain.reorganise(keep=keep)

    ended = world.finish_nonce(0)

    assert mined.status is TransactionStatus.MINED
    assert ended.status is TransactionStatus.CONFIRMED
    assert len({*world.chain.broadcasts}) == 1


def test_a_filler_needs_its_network(world: World) -> None:
    """It waits until the network is back in the file."""
    filler = _filler(world, 0)
    lifecycle = world.lifecycle
    lifecycle._chains = {}

    (outcome,) = lifecycle.step_all([filler])

    assert isinstance(outcome, ConfigurationError)
    assert "put it back" in str(outcome)


def test_a_filler_needs_no_token(world: World) -> None:
    """It pays nothing, so no rule for payments applies to it."""
    world.network = world.network.model_copy(update={"tokens": {}})

    assert world.move(_filler(world, 0)).status is TransactionStatus.SIGNED


def test_a_changed_filler_is_named(world: World) -> None:
    """Its nonce is unknown then, so the wallet stays paused (R24)."""
    assert _restored(world, 4) == [1, 2, 3]
    for statement in (
        "DROP TRIGGER transactions_keep",
        "DROP TRIGGER transactions_stay",
        "UPDATE transactions SET mac = NULL WHERE nonce = 2",
        "DELETE FROM transactions WHERE nonce = 1",
    ):
        forge(world.store, statement)
    status = world.reconcile()

    with pytest.raises(RowNotAuthenticError, match=f"{world.signer.address} 2 "):
        world.wallets.resume(status, world.chains["local"])
    assert status.gaps == 2
    assert world.wallet.is_paused


def test_the_nonce_above_a_filler_is_replaced_when_it_is_stuck(world: World) -> None:
    """That the filler became final lately is no reason to wait: it was mined before."""
    world.network = world.network.model_copy(update={"confirmations": 30})
    world.move(_filler(world, 0), times=2)
    world.chain.mine()
    world.confirmation_tracker.track()
    refund = world.broadcast()
    signed: list[int] = []
    for seconds in (60, 31):  # After 90 s it is stuck.
        world.clock.advance(seconds=seconds)
        world.chain.mine_empty(29)
        world.confirmation_tracker.track()
        world.work(timedelta(0))
        signed.append(len(world.store.transactions(refund.id)))

    assert world.found(0).status is TransactionStatus.CONFIRMED
    assert signed == [1, 2]


def test_a_delayed_filler_is_counted(world: World) -> None:
    """As a delayed refund is: it holds up all nonces above its own."""
    _filler(world, 0)
    seen: list[tuple[str, str]] = []

    class Delays(Meter):
        def delayed(self, moving: Moving, code: str) -> None:
            seen.append((moving.id, code))

    world.chain.fail("fees", ChainUnavailableError("gone"))
    worker = world.worker
    worker._meter = Delays()
    worker.work()

    assert seen == [(world.found(0).id, "chain-unavailable")]


def test_an_invented_filler_is_not_signed(world: World) -> None:
    """Nor does it hide a nonce that the ledger does not know."""
    filler = _filler(world, 0)
    forged = replace(filler, mac=None)

    (outcome,) = world.lifecycle.step_all([forged])

    assert isinstance(outcome, RowNotAuthenticError)
    assert world.chain.broadcasts == []
