"""Steps of transactions whose rows do not fit their refunds, or that pay several."""

from dataclasses import replace

import pytest

from signer.alerts import Alert
from signer.errors import RowNotAuthenticError
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction
from signer.ports.refund_store import Change
from tests.fixtures.ledger import forge
from tests.support.refunds import World


def _point(world: World, other: Refund, nonce: int) -> None:
    """Let another program point *other* to the transaction with *nonce*."""
    forge(
        world.store,
        f"UPDATE refunds SET state = 'assigned', sender = '{world.signer.address}',"
        f" nonce = {nonce}, position = 1 WHERE id = '{other.id}'",
    )


def test_a_stranger_is_reported_and_not_paid(world: World) -> None:
    """The transaction goes on with its own refund, also when it is tracked."""
    refund, other = world.step(world.accepted()), world.accepted(amount="7.00")
    _point(world, other, 0)
    found = world.found(0)

    (paid,) = world.finish(refund)

    assert [each.id for each in found.payments] == [refund.id]
    assert [each.id for each in found.strangers] == [other.id]
    assert paid.status is Status.CONFIRMED
    assert world.store.get(other.id) is not None
    assert world.stored(other).state is PaymentState.ASSIGNED
    assert len(world.chain.payouts()) == 1
    assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def test_a_transaction_of_other_refunds_is_not_authentic(world: World) -> None:
    """No first part of them has its digest."""
    refund, other = world.step(world.accepted()), world.accepted()
    own = world.found(0)
    taken = own.paying_own([replace(other, position=0), refund])

    assert len(taken.payments) == 2
    with pytest.raises(RowNotAuthenticError):
        world.store.require_authentic(taken)


def test_a_refund_that_another_program_ended_is_not_paid(world: World) -> None:
    """A transaction would still pay it."""
    reserved = world.step(world.accepted()).reserved()
    ended = replace(reserved.payment, state=PaymentState.FAILED)

    (outcome,) = world.lifecycle.step_all([reserved.paying([ended])])

    assert isinstance(outcome, RowNotAuthenticError)
    assert world.chain.broadcasts == []


def test_an_ended_refund_does_not_follow(world: World) -> None:
    """Nor does it keep its transaction from its end."""
    sent = world.broadcast().reserved()
    ended = replace(sent.payment, state=PaymentState.FAILED)
    mined = replace(sent.paying([ended]), block_number=1, block_hash="0x1")

    moved = mined.with_status(type(mined.status)("mined"), world.clock())

    assert [each.state for each in moved.payments] == [PaymentState.FAILED]


def test_a_change_of_a_refund_has_no_transaction(world: World) -> None:
    refund = world.accepted()
    later = refund.with_due_at(world.clock())

    with pytest.raises(TypeError):
        _ = Change(refund, later).transactions


def test_a_transaction_has_names_for_logs(world: World) -> None:
    """The refund that it pays alone, or its nonce."""
    alone = world.step(world.accepted()).reserved()
    several = alone.paying([alone.payment, alone.payment])

    assert alone.names == {"refund_id": alone.payment.id}
    assert several.names == {"transaction": several.id}
    with pytest.raises(ValueError, match="too many"):
        _ = several.payment
    assert isinstance(several, Transaction)
