"""
A restore that is interrupted pays nothing twice, and a repeated command completes it.

Each call to the ledger fails in turn, before or after its effect: the process is
killed there, or gets an error.
"""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import cast

from signer.errors import HotWalletError, StoreUnavailableError
from signer.keys.rotation import RotationOptions
from signer.model.key import KeyState
from signer.model.refund import Status
from signer.ports.ledger import Ledger
from tests.support.faults import Fault, Faulty, Killed, everywhere, fault_places
from tests.support.ledgers import copy_ledger
from tests.support.refunds import ACTOR, AMOUNT, CUSTOMER, OPERATOR, SECOND
from tests.support.restores import Restored, plan_of, requested


CHANGES = {
    *("accept_all", "adopt", "request_cancellation", "append", "begin_hold"),
    *("open_wallet", "pause", "begin_rotation", "activate"),
}


@everywhere
def test_a_restore_survives_a_fault_at_every_call(
    world: Restored,
    opened: Callable[[Path], Ledger],
    tmp_path: Path,
    after: bool,
    kills: bool,
    repeats: bool,
) -> None:
    """Refunds, keys and a stop are as they were, and no refund is paid twice (R24)."""
    moved = world.step(requested(world, "moved"))
    cancelled = requested(world, "cancelled")
    world.backup()
    refused, lost = requested(world, "refused"), requested(world, "lost")
    world.service.request_cancellation("gateway", cancelled.id, ACTOR)
    world.chain.revert = "blocked"
    world.step(refused)
    world.chain.revert = None
    _rotate(world)
    world.step(lost, times=3)
    unknown = world.step(requested(world, "unknown"), times=3)
    world.holds.stop("local", OPERATOR.because("drill"))
    records = [each for each in world.log if unknown.reference not in each.body]
    chain, numbers = world.chain, count()

    def run(fault: Fault) -> None:
        path = copy_ledger(tmp_path / "backup-0.db", tmp_path / f"run-{next(numbers)}")
        store, world.chain = opened(path), deepcopy(chain)
        world.store = cast(
            "Ledger", Faulty(store, fault, StoreUnavailableError("gone"))
        )
        with suppress(Killed, HotWalletError):
            world.restore(records)
        world.store = store
        world.clock.advance(seconds=31)  # An interrupted rotation ends its hold.
        if not plan_of(world, records, key_ids=[SECOND.address.lower()]).is_empty:
            world.restore(records)

        keys = {key.address: key.state for key in world.ring.refresh()}
        assert keys[world.signer.address] is KeyState.DRAINING, fault.place
        assert keys[SECOND.address] is KeyState.ACTIVE, fault.place
        assert world.holds.resume("local", OPERATOR.because("done")).changed, (
            fault.place
        )
        new = requested(world, "new")
        ended = world.finish(moved, cancelled, refused, lost, new)
        assert [(each.status, each.nonce) for each in ended] == [
            (Status.CONFIRMED, 0),
            (Status.CANCELLED, None),
            (Status.CANCELLED, None),
            (Status.CONFIRMED, 0),
            (Status.CONFIRMED, 2),
        ], fault.place
        payouts = world.chain.payouts()
        # The refund that the log does not have is paid, or a filler took its nonce.
        assert payouts in ([(CUSTOMER, AMOUNT)] * 3, [(CUSTOMER, AMOUNT)] * 4)
        world.work()
        assert not world.store.paused_wallets(), fault.place

    places = fault_places(run, CHANGES, after=after, kills=kills, repeats=repeats)
    assert places >= CHANGES


def _rotate(world: Restored) -> None:
    options = RotationOptions(active_address=world.signer.address)
    world.restorer.rotation.rotate(SECOND.address.lower(), OPERATOR, options)
