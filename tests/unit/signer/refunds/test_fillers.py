"""Fillers: no-ops for nonces that a restored ledger does not know."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from signer.errors import ConfigurationError, StaleStateError
from signer.model.acceptance import Acceptance
from signer.model.refund import OPERATOR, Refund, Status
from signer.model.transaction import Kind
from signer.model.wallet import NOOP_MARK, Pause
from signer.outcomes import require
from signer.ports.chain import Fees
from signer.ports.ledger import Ledger
from signer.refunds.fillers import build_filler
from signer.refunds.payload import payload_of
from tests.fixtures.scripted_chain import CHAIN_ID, Sent
from tests.support.refunds import (
    AMOUNT,
    CUSTOMER,
    World,
    altered,
)


def _filler(world: World, nonce: int) -> Refund:
    """Return a queued filler for *nonce*; the wallet is open and restored."""
    world.ring.active()
    world.wallets.get_or_open(world.chains["local"], world.signer.address, 0)
    filler = build_filler("local", world.wallet, nonce, world.clock())
    (accepted,) = world.store.accept_all([Acceptance(filler)])
    refund, _ = require(accepted)
    return refund


def _restored(world: World, mark: int) -> list[Refund]:
    """Pay once, and restore with the *mark*; return the fillers."""
    world.paid()
    stated = {("local", world.signer.address): mark}
    world.restore(stated=stated, has_log=False)
    return _fillers(world)


def _fillers(world: World) -> list[Refund]:
    found = world.store.list(OPERATOR, limit=100).refunds
    return sorted(found, key=lambda each: each.reference)


def test_a_filler_uses_its_nonce(world: World) -> None:
    """It sends nothing to the wallet itself, and ends when that is final (R24)."""
    filler = _filler(world, 0)

    held = world.step(filler)
    signed = world.step(held)
    world.step(signed)
    sent = Sent.read(world.chain.broadcasts[-1])
    world.settle()
    ended = world.stored(filler)

    assert (held.status, held.nonce) == (Status.RESERVED, 0)
    assert held.sender == world.signer.address
    assert world.sent(signed).kind is Kind.NOOP
    assert (sent.to, sent.data, sent.nonce) == (world.signer.address, b"", 0)
    assert (ended.status, ended.failure_code) == (Status.FAILED, "nonce-filled")
    assert world.chain.payouts() == []


def test_a_nonce_gets_one_filler(world: World) -> None:
    """However often the restore is repeated."""
    first, second = _filler(world, 0), _filler(world, 0)

    assert first == second


def test_a_wallet_resumes_when_its_nonces_are_filled(world: World) -> None:
    """A new refund gets the nonce after them."""
    fillers = _restored(world, 3)
    refund = world.accepted()

    (confirmed,) = world.finish(refund)

    assert [world.stored(each).nonce for each in fillers] == [1, 2]
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, 3)
    assert not world.wallet.is_paused
    assert len(world.chain.payouts()) == 2


def test_another_row_has_the_nonce(world: World) -> None:
    """The refund's own transaction uses it (R24)."""
    refund = world.step(world.accepted())
    filler = _filler(world, 0)

    refused = world.step(filler)

    assert (refused.status, refused.failure_code) == (Status.REFUSED, "nonce-held")
    assert refused.nonce is None
    assert world.stored(refund).nonce == 0


def test_another_process_holds_the_nonce_first(world: World) -> None:
    """The step is lost, and the filler continues."""
    filler = _filler(world, 0)

    def adopt(before: Refund, after: Refund) -> None:
        real.adopt(before, after)
        raise StaleStateError("changed")

    real = world.store
    world.store = altered(real, adopt=adopt)
    world._enrolled = world.store

    with pytest.raises(StaleStateError):
        world.lifecycle.step(filler)
    assert world.stored(filler).status is Status.RESERVED


def test_a_revoked_key_fills_nothing(world: World) -> None:
    """The filler ends, and its wallet waits for an operator (O8)."""
    filler = _filler(world, 0)
    world.rotate(block=True)

    refused = world.step(filler)

    assert (refused.status, refused.failure_code) == (Status.REFUSED, "key-unusable")


def test_a_forgotten_payment_that_is_requested_again(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """It is mined before the filler, and the request is answered with it (R24)."""
    world.paid()
    restored = backup()
    lost = world.broadcast(reference="forgotten")
    world.store = restored
    world.state_marks()
    (filler,) = _fillers(world)
    again = world.accepted(reference="forgotten")
    world.work()
    world.mine_deep()

    (ended,) = world.finish(again)

    assert world.stored(filler).failure_code == "nonce-taken"
    assert (ended.status, ended.failure_code) == (Status.REFUSED, "already-paid")
    assert str(lost.tx_hash) in str(ended.failure_detail)
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2
    assert not world.wallet.is_paused


def test_a_payment_that_is_recorded_before_the_filler_holds_its_nonce(
    world: World, backup: Callable[[], Ledger]
) -> None:
    """A worker records it first; the request adopts it (R24)."""
    world.paid()
    restored = backup()
    lost = world.broadcast(reference="forgotten")
    world.store = restored
    world.state_marks()
    again = world.accepted(reference="forgotten")
    world.mine_deep()

    (ended,) = world.finish(again)

    assert (ended.status, ended.tx_hash) == (Status.CONFIRMED, lost.tx_hash)
    assert [world.stored(each).failure_code for each in _fillers(world)] == [
        "nonce-held"
    ]
    assert world.chain.payouts() == [(CUSTOMER, AMOUNT)] * 2


def test_a_used_nonce_is_not_signed(world: World) -> None:
    """The transaction that used it is recorded (R24)."""
    filler = world.step(_filler(world, 0))
    refund = world.accepted()
    world.chain.mine_foreign(world.signer.address, payload_of(refund).data)
    waiting = world.step(filler)
    world.chain.mine_empty(2)

    ended = world.step(waiting)

    assert waiting.status is Status.RESERVED
    assert (ended.status, ended.failure_code) == (Status.FAILED, "nonce-taken")
    assert refund.mark in world.store.find_unrecorded(CHAIN_ID, [refund.mark])
    assert world.chain.broadcasts == []


def test_a_forgotten_noop_is_not_foreign(world: World) -> None:
    """Below the mark, a no-op is a cancellation or a filler of the lost time."""
    (filler,) = _restored(world, 2)
    world.step(filler)
    world.chain.mine_foreign(world.signer.address, b"")
    world.chain.mine_empty(2)

    (confirmed,) = world.finish(world.accepted())

    assert world.stored(filler).failure_code == "nonce-taken"
    assert NOOP_MARK in world.store.find_unrecorded(CHAIN_ID, [NOOP_MARK])
    assert (confirmed.status, confirmed.nonce) == (Status.CONFIRMED, 2)


def test_a_noop_above_the_mark_is_foreign(world: World) -> None:
    """The mark says that the service has not signed it (R23)."""
    (filler,) = _restored(world, 2)
    world.chain.mine_foreign(world.signer.address)
    world.chain.mine_foreign(world.signer.address, b"")
    world.chain.mine_empty(2)
    for _ in range(3):
        world.work(after=timedelta(seconds=31))

    foreign = world.store.foreign_transactions(CHAIN_ID, world.signer.address)

    assert world.stored(filler).failure_code == "nonce-taken"
    assert [each.nonce for each in foreign] == [1, 2]
    assert world.wallet.paused_by is Pause.RESTORED


def test_a_filler_is_replaced_when_fees_rise(world: World) -> None:
    """It stays a no-op with the same nonce (R18)."""
    (filler,) = _restored(world, 2)
    for _ in range(3):
        world.work(after=timedelta(seconds=31))
    world.chain.answers = Fees(base_fee=20 * 10**9, priority_fee=10**9)
    world.clock.advance(seconds=world.network.stuck_after_seconds)
    for _ in range(4):
        world.work(after=timedelta(seconds=31))
    sent = world.store.transactions(filler.id)

    world.finish(filler)

    fees = [each.max_fee_per_gas for each in sent]
    assert {(each.kind, each.nonce) for each in sent} == {(Kind.NOOP, 1)}
    assert fees == sorted({*fees})
    assert fees[-1] > 20 * 10**9
    assert world.stored(filler).failure_code == "nonce-filled"


@pytest.mark.parametrize("keep", [True, False])
def test_a_filler_that_a_reorganisation_removes(world: World, keep: bool) -> None:
    """It is sent again (R19)."""
    filler = world.step(_filler(world, 0), times=3)
    world.chain.mine()
    world.confirmation_tracker.track()
    mined = world.stored(filler)
    world.chain.reorganise(keep=keep)

    (ended,) = world.finish(filler)

    assert mined.status is Status.MINED
    assert (ended.status, ended.failure_code) == (Status.FAILED, "nonce-filled")
    assert len({*world.chain.broadcasts}) == 1


def test_a_filler_needs_its_network(world: World) -> None:
    """It waits until the network is back in the file."""
    filler = world.on_network("gone", _filler(world, 0))

    with pytest.raises(ConfigurationError, match="put it back"):
        world.lifecycle.step(filler)


def test_a_filler_needs_no_token(world: World) -> None:
    """It pays nothing, so no rule for payments applies to it."""
    world.network = world.network.model_copy(update={"tokens": {}})

    held = world.step(_filler(world, 0))

    assert held.status is Status.RESERVED


def test_fillers_and_refunds_take_their_steps_together(world: World) -> None:
    """Each kind takes its own step (R5)."""
    filler, refund = _filler(world, 5), world.accepted()

    held, first = world.lifecycle.step_all([filler, refund])

    assert isinstance(held, Refund)
    assert isinstance(first, Refund)
    assert (held.nonce, first.nonce) == (5, 6)


def test_a_filler_is_explained(world: World) -> None:
    """An operator sees which wallet waits for it."""
    held = world.step(_filler(world, 0))

    explanation = world.explainer.explain(held)

    assert explanation.refund == held
