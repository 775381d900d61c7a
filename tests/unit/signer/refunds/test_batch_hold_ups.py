"""Neither one refund nor a changed configuration holds up the others of a batch."""

from datetime import timedelta

import pytest

from signer.errors import InvalidInputError
from signer.model.refund import Refund, Status
from signer.refunds.payment_approvals import decide
from signer.refunds.payment_checks import max_gas
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import AMOUNT, SECOND, VAULT, World


NEXT = "0xCf7Ed3AccA5a467e9e704C703E8D87F634fB0Fc9"


@pytest.fixture
def vault(world: World) -> ScriptedVault:
    """The vault of the network of *world*."""
    return world.use_vault(max_batch=9)


def _reserved(world: World, *refunds: Refund) -> None:
    world.lifecycle.step_all(refunds)
    assert {world.stored(each).status for each in refunds} == {Status.RESERVED}


def _pass(world: World, times: int = 8) -> None:
    for _ in range(times):
        world.work(after=timedelta(seconds=31))
        world.mine_deep()


def test_another_vault_pays_what_was_reserved(
    world: World, vault: ScriptedVault
) -> None:
    """A no-op uses the nonce, and later refunds do not wait for the old vault."""
    refunds = [world.accepted() for _ in range(2)]
    _reserved(world, *refunds)
    following = ScriptedVault(NEXT, TOKEN, {world.signer.address}, day=vault.day)
    world.chain.vaults[NEXT] = following
    world.network = world.network.model_copy(update={"vault": NEXT})

    _pass(world)
    refunds.append(world.accepted())
    _pass(world)

    found = [world.stored(each) for each in refunds]
    assert {each.status for each in found} == {Status.CONFIRMED}
    assert world.store.attempts(found[0].reserved())[0].nonce > 0


def test_one_refund_above_a_lowered_limit(world: World, vault: ScriptedVault) -> None:
    """It waits alone; the others of its batch are paid by the next one."""
    small, large = world.accepted(), world.accepted(amount="20")
    _reserved(world, small, large)
    world.change_token(max_amount="15")

    _pass(world)

    assert world.stored(small).status is Status.CONFIRMED
    waiting = world.stored(large)
    assert (waiting.status, waiting.blocked_by) == (Status.QUEUED, "policy-violation")


def test_passes_reserve_no_more_than_the_cap(
    world: World, vault: ScriptedVault
) -> None:
    """What is in the pool counts: the contract would skip it."""
    vault.per_day = 4 * AMOUNT
    refunds = []
    for _ in range(3):
        refunds += [world.accepted() for _ in range(3)]
        world.work()

    nonces = [world.stored(each).nonce for each in refunds]
    assert sum(each is not None for each in nonces) == 4


def test_a_batch_that_reverted_gets_all_the_gas(
    world: World, vault: ScriptedVault
) -> None:
    """No item of the second one can use up what the others need."""
    refunds = [world.accepted() for _ in range(2)]
    world.work()
    first = world.stored(refunds[0]).gas_limit
    operators, vault.operators = vault.operators, {NEXT}
    world.mine_deep()
    world.work(after=timedelta(seconds=31))
    vault.operators = operators

    _pass(world)

    found = world.stored(refunds[0])
    assert found.status is Status.CONFIRMED
    assert first is not None
    assert found.gas_limit == 220_000 + 2 * max_gas(found, world.network) > first


def test_the_vault_is_no_recipient(world: World, vault: ScriptedVault) -> None:
    """Its transfer to itself would look like a payment."""
    with pytest.raises(InvalidInputError, match="the vault that pays"):
        world.accepted(recipient=VAULT)


def test_a_refund_to_what_became_the_vault_waits(world: World) -> None:
    """It was accepted before; the policy refuses it as well."""
    refund = world.accepted(recipient=VAULT)
    world.use_vault()

    _pass(world, times=2)

    found = world.stored(refund)
    assert (found.nonce, found.blocked_by) == (None, "policy-violation")
    decision = decide(world.payment_policy, refund, world.network)
    assert decision.rules == ("recipient",)


@pytest.mark.parametrize("has_vault", [True, False])
def test_a_recipient_that_becomes_a_key(world: World, *, has_vault: bool) -> None:
    """A vault names the next key in public: a refund to it waits without a nonce."""
    if has_vault:
        world.use_vault(max_batch=9).operators.add(SECOND.address)
    bad = world.accepted(recipient=SECOND.address)
    world.rotate(SECOND)
    good = [world.accepted() for _ in range(5)]

    _pass(world)

    found = world.stored(bad)
    assert (found.status, found.nonce) == (Status.QUEUED, None)
    assert found.moving.blocked_by == "policy-violation"
    assert {world.stored(each).status for each in good} == {Status.CONFIRMED}
    assert len(world.chain.broadcasts) == (1 if has_vault else 5)
