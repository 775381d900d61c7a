"""Workers measure how many refunds a final batch had, and which it did not pay."""

from collections.abc import Sequence

import pytest

from signer.model.transaction import CLAIM_TIME
from signer.ports.meter import Meter
from signer.refunds.confirmations import ConfirmationTracker
from tests.fixtures.batches import VAULT
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import AMOUNT, World


class _Kept(Meter):
    def __init__(self) -> None:
        self.batches: list[tuple[str, int, list[str]]] = []

    def ended_batch(self, network: str, size: int, unpaid: Sequence[str]) -> None:
        self.batches.append((network, size, [*unpaid]))


@pytest.mark.parametrize("is_vault", [True, False])
def test_a_final_batch_is_measured(world: World, is_vault: bool) -> None:
    """The cap of the day was lowered meanwhile; a plain transfer is no batch."""
    own = {world.signer.address}
    vault = world.chain.vaults[VAULT] = ScriptedVault(VAULT, TOKEN, own)
    if is_vault:
        world.network = world.network.model_copy(update={"vault": VAULT})
        world.compile_policy()
    for _ in range(3):
        world.accepted()
    world.clock.now += CLAIM_TIME
    world.work()
    vault.per_day = 2 * AMOUNT
    world.mine_deep()
    meter = _Kept()
    tracker = ConfirmationTracker(
        world.store, world.chains, world.clock, world.row_alarm, meter=meter
    )

    tracker.track()
    tracker.track()

    expected = [("local", 3, ["vault-limit"])]
    assert meter.batches == (expected if is_vault else [])
