"""
A thief of the workers' database role, on a network with a vault.

The role may say that a batch has ended and queue its payments again.  The chain decides
whether they get another nonce.
"""

import pytest

from signer.alerts import Alert
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction
from tests.attacks.theft import QUEUED_AGAIN, REFUSED, Thief, let_work
from tests.fixtures.batches import VAULT
from tests.fixtures.roles import Processes
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import AMOUNT, World


STEPS = {Status.RESERVED: 1, Status.SIGNED: 2, Status.BROADCAST: 3}

CODE = "row-not-authentic"

# A version that has a row of history would refuse the next one.
_AGAIN = f"{QUEUED_AGAIN}, version = version + 9"

_BLOCK = "block_number = 1, block_hash = 'thief', tx_hash = coalesce(tx_hash, 'thief')"


@pytest.fixture
def role() -> str:
    return "worker"


@pytest.fixture
def world(processes: Processes) -> World:
    """Return a worker whose network has a vault, with what accepts refunds."""
    world = processes.worker
    world.network = world.network.model_copy(update={"vault": VAULT, "max_batch": 9})
    vault = ScriptedVault(VAULT, TOKEN, {world.signer.address})
    world.chain.vaults[VAULT] = vault
    processes.refunds.network = world.network
    return world


def _batch(world: World, processes: Processes, status: Status) -> list[Refund]:
    """Return two refunds of one batch that has *status*."""
    refunds = [processes.refunds.accepted() for _ in range(2)]
    moving, *_ = world.lifecycle.step_all(refunds)
    for _ in range(STEPS[status] - 1):
        assert isinstance(moving, Transaction)
        (moving,) = world.lifecycle.step_all([moving])
    found = [world.stored(each) for each in refunds]
    assert {(each.status, each.nonce) for each in found} == {(status, 0)}
    return found


def _end(status: str) -> str:
    return f"UPDATE transactions SET status = '{status}', {_BLOCK}"


def _code(world: World, refund: Refund) -> str | None:
    return world.stored(refund).moving.blocked_by


@pytest.mark.parametrize("end", ["confirmed", "failed"])
@pytest.mark.parametrize("is_mined", [False, True], ids=["in the pool", "mined"])
@pytest.mark.parametrize("status", STEPS)
def test_payments_that_are_queued_again(
    world: World,
    processes: Processes,
    thief: Thief,
    status: Status,
    is_mined: bool,
    end: str,
) -> None:
    """Triggers permit it, as after a real end.  The chain pays each once at most."""
    refunds = _batch(world, processes, status)
    if is_mined:
        world.mine_deep()

    assert thief.steal(_end(end), _AGAIN) is None
    let_work(world, world.worker)

    payouts = [amount for _, amount in world.chain.payouts()]
    assert payouts == ([AMOUNT, AMOUNT] if status is Status.BROADCAST else [])
    found = [world.stored(each) for each in refunds]
    assert {(each.state, each.nonce) for each in found} == {(PaymentState.QUEUED, None)}
    if status is Status.BROADCAST:
        assert {_code(world, each) for each in refunds} == {CODE}
        assert world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def test_a_payment_whose_row_hides_that_it_was_queued_again(
    world: World, processes: Processes, thief: Thief
) -> None:
    """The reservation finds its membership."""
    refunds = _batch(world, processes, Status.BROADCAST)
    world.mine_deep()

    hides = "UPDATE refunds SET updated_at = created_at"
    assert thief.steal(_end("confirmed"), _AGAIN, hides) is None
    let_work(world, world.worker)

    assert len(world.chain.payouts()) == 2
    assert {_code(world, each) for each in refunds} == {CODE}


@pytest.mark.parametrize("hides", [False, True])
def test_a_membership_in_a_final_batch(
    world: World, processes: Processes, thief: Thief, *, hides: bool
) -> None:
    """The refund is paid once, as the chain shows that it was not; or it waits."""
    _batch(world, processes, Status.BROADCAST)
    let_work(world, world.worker)
    refund = processes.refunds.accepted(amount="7.00")
    change = "created_at" if hides else "created_at + interval '1 second'"

    stolen = thief.steal(
        "INSERT INTO transaction_payments SELECT"
        f" '{refund.id}', chain_id, sender, nonce, 2 FROM transactions",
        f"UPDATE refunds SET updated_at = {change} WHERE id = '{refund.id}'",
    )
    let_work(world, world.worker)

    assert stolen is None
    paid = [amount for _, amount in world.chain.payouts()]
    assert paid == [AMOUNT, AMOUNT, *([] if hides else [refund.amount])]
    if hides:
        assert _code(world, refund) == CODE


@pytest.mark.parametrize("state", ["confirmed", "queued"])
def test_the_end_of_an_open_batch(
    world: World, processes: Processes, thief: Thief, state: str
) -> None:
    """No payment has one before its transaction says so."""
    refunds = _batch(world, processes, Status.BROADCAST)
    place = ", nonce = NULL, sender = NULL, position = NULL"
    change = f"UPDATE refunds SET state = '{state}'{place if state == 'queued' else ''}"

    assert thief.steal(change) == REFUSED
    let_work(world, world.worker)

    assert world.statuses(refunds) == [Status.CONFIRMED] * 2
    assert len(world.chain.payouts()) == 2


def test_a_final_payment_of_a_batch_stays(
    world: World, processes: Processes, thief: Thief
) -> None:
    _batch(world, processes, Status.BROADCAST)
    let_work(world, world.worker)

    assert thief.steal(QUEUED_AGAIN) == REFUSED
