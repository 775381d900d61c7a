"""What a vault can pay is looked at before a refund gets its nonce."""

from datetime import timedelta
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from signer.model.refund import Refund, Status
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import AMOUNT, SECOND, World


OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def vault(world: World) -> ScriptedVault:
    """The vault of the network of *world*."""
    return world.use_vault()


def _worked(world: World, *refunds: Refund) -> list[Refund]:
    world.work()
    return [world.stored(each) for each in refunds]


def test_a_batch_within_the_limits(world: World, vault: ScriptedVault) -> None:
    """Three refunds have one nonce, and each its end."""
    refunds = [world.accepted() for _ in range(3)]

    found = _worked(world, *refunds)

    assert {each.nonce for each in found} == {0}
    assert {each.status for each in found} == {Status.BROADCAST}


@pytest.mark.parametrize(
    ("caps", "paid"),
    [
        ({"per_day": 2 * AMOUNT}, 2),
        ({"per_day": 2 * AMOUNT - 1}, 1),
        ({"per_item": AMOUNT - 1}, 0),
        ({"operators": {OTHER}}, 0),
    ],
)
def test_what_is_above_a_limit_waits(
    world: World, vault: ScriptedVault, caps: dict[str, int], paid: int
) -> None:
    """It has no nonce, can be cancelled, and operators get an alert."""
    for name, value in caps.items():
        setattr(vault, name, value)
    refunds = [world.accepted() for _ in range(3)]

    found = _worked(world, *refunds)

    assert [each.nonce for each in found] == [0] * paid + [None] * (3 - paid)
    assert {each.blocked_by for each in found[paid:]} == {"vault-limit"}


def test_what_was_spent_today_counts(world: World, vault: ScriptedVault) -> None:
    """By other operators as well."""
    vault.per_day = 2 * AMOUNT
    first, second, third = (world.accepted() for _ in range(3))
    _worked(world, first, second)
    world.chain.mine()

    (found,) = _worked(world, third)

    assert found.blocked_by == "vault-limit"


def test_what_is_in_the_pool_counts_if_the_vault_holds_little(
    world: World, vault: ScriptedVault
) -> None:
    """Two are sent and not mined; the third would be more than the vault holds."""
    world.chain.balance_left = 3 * AMOUNT - 1
    _worked(world, world.accepted(), world.accepted())

    (found,) = _worked(world, world.accepted())

    assert (found.nonce, found.blocked_by) == (None, "insufficient-funds")


@pytest.mark.parametrize("is_revoked", [True, False])
def test_what_a_removed_operator_sent_does_not_count(
    world: World, vault: ScriptedVault, *, is_revoked: bool
) -> None:
    """Its key may have no coin left, so that it is never mined."""
    vault.operators.add(SECOND.address)
    vault.per_day = 4 * AMOUNT
    world.chain.balance_left = 4 * AMOUNT
    _worked(world, *(world.accepted() for _ in range(4)))
    world.rotate(SECOND, block=is_revoked)
    if not is_revoked:
        vault.operators.discard(world.signer.address)
    world.chain.forget()

    found = world.accepted()
    world.work(after=timedelta(seconds=31))

    assert world.stored(found).sender == SECOND.address


def test_the_alert_lasts_as_long_as_a_refund_waits(
    world: World, vault: ScriptedVault
) -> None:
    """Others of its token are paid in the same passes."""
    vault.per_item = 2 * AMOUNT
    world.accepted(amount="30")
    worker, events = world.worker, []
    for _ in range(3):
        world.accepted()
        world.clock.advance(seconds=31)
        with capture_logs() as logs:
            worker.work()
        events += [each["event"] for each in logs if "alert" in each]
        world.mine_deep()

    assert "alert-resolved" not in events
    vault.per_item *= 9
    world.clock.advance(seconds=31)
    with capture_logs() as logs:
        worker.work()
    assert [each["alert"] for each in logs if each["event"] == "alert-resolved"]


def test_the_day_is_that_of_the_chain(world: World, vault: ScriptedVault) -> None:
    """The clock of this host is ahead, and the vault would skip all of them."""
    vault.per_day = AMOUNT
    _worked(world, world.accepted())
    world.mine_deep()
    world.clock.advance(days=1)

    (found,) = _worked(world, world.accepted())

    assert (found.nonce, found.blocked_by) == (None, "vault-limit")


def test_each_further_transaction_waits_longer(
    world: World, vault: ScriptedVault
) -> None:
    """The vault skips the refund again and again, for a reason that no view shows."""
    refund = world.accepted()
    vault.per_day, vault.shown_per_day = 0, AMOUNT
    sent = []
    for _ in range(40):
        world.work(after=timedelta(seconds=31))
        sent.append(len(world.chain.broadcasts))
        world.mine_deep()
    tries = [place for place, each in enumerate(sent) if each > max([0, *sent[:place]])]

    pauses = [later - first for first, later in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 7
    assert world.stored(refund).status is Status.QUEUED
