"""For each action: a state that allows it, and what it changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from api.actions.action import Action, Texts
from signer.model.refund import OPERATOR
from tests.extras.console.worlds import CAROL, SHOP, WHY, World
from tests.fixtures.ledger import refund_page
from tests.support.ring import ELSEWHERE, NEW


@dataclass(frozen=True)
class Case:
    """
    How an action is tested.

    ``prepare`` makes the state, and returns the fields of the form without the reason.
    ``state`` is what the action changes.  ``exits_with`` is the status of the command.
    """

    prepare: Callable[[World], Texts]
    state: Callable[[World], object]
    needs_approval: bool = False
    exits_with: int = 0


def _stopped(world: World) -> Texts:
    world.container.holds.stop(
        "local", CAROL.because("odd <i>refunds</i>"), token="TUSD"
    )
    return {"network": "local", "asset": "TUSD"}


def _blocked(world: World) -> Texts:
    world.container.holds.block(SHOP, CAROL)
    return {"tenant": SHOP}


def _paused(world: World) -> Texts:
    world.paused(world.old.address)
    return {"network": "local"}


def _lost(world: World) -> Texts:
    address = world.revoked().address
    world.paused(address)
    return {"address": address, "network": "local"}


def _rotation(world: World) -> Texts:
    address = world.old.address
    flags = {"compromised": "", "without_funds": ""}
    return {"key_id": NEW, "active_address": address, **flags}


def _proposed(world: World) -> Texts:
    return {"digest": world.proposed(), "signature": ""}


def _rejected(world: World) -> Texts:
    return {"digest": world.proposed()}


def _given_up(world: World) -> Texts:
    world.given_up()
    return {"tenant": SHOP}


def _stops(world: World) -> object:
    return world.store.stops()


def _blocks(world: World) -> object:
    return world.store.blocks()


def _wallets(world: World) -> object:
    return world.store.wallets()


def _keys(world: World) -> object:
    return world.store.keys()


def _tests(name: str) -> Callable[[World], object]:
    return lambda world: world.system.directory.devices[name].calls


def _deliveries(world: World) -> object:
    return world.store.deliveries(9)


def _refunds(world: World) -> object:
    return refund_page(world.store, SHOP).refunds


def _sweeps(world: World) -> object:
    return refund_page(world.store, OPERATOR).refunds


def _approvals(world: World) -> object:
    return [(each.state, each.decided_by) for each in world.store.open_approvals(0, 9)]


CASES: Mapping[str, Case] = {
    "stop": Case(lambda _: {"network": "local", "asset": "TUSD"}, _stops),
    "resume": Case(_stopped, _stops, needs_approval=True),
    "block-tenant": Case(lambda _: {"tenant": SHOP}, _blocks),
    "unblock-tenant": Case(_blocked, _blocks, needs_approval=True),
    "repair-nonces": Case(_paused, _wallets),
    "abandon-nonces": Case(_lost, _wallets, needs_approval=True),
    "rotate-key": Case(_rotation, _keys),
    "rehearse-rotation": Case(_rotation, _tests(NEW)),
    "fail-over": Case(lambda _: {"key_id": ELSEWHERE}, _keys),
    "rehearse-failover": Case(lambda _: {"key_id": ELSEWHERE}, _tests(ELSEWHERE)),
    "revoke-key": Case(
        lambda world: {"address": world.replaced().address}, _keys, needs_approval=True
    ),
    "reinstate-key": Case(
        lambda world: {"address": world.revoked().address}, _keys, needs_approval=True
    ),
    # The coin waits for the tokens.
    "sweep-key": Case(
        lambda world: {"address": world.replaced().address}, _sweeps, exits_with=1
    ),
    "replay-event": Case(lambda world: {"event_id": world.given_up()}, _deliveries),
    "replay-dead": Case(_given_up, _deliveries),
    "cancel-refund": Case(lambda world: {"refund_id": world.refund().id}, _refunds),
    "approve": Case(_proposed, _approvals),
    "reject": Case(_rejected, _approvals),
    "break-glass": Case(_proposed, _approvals),
}


def prepared(world: World, action: Action) -> tuple[Case, Texts]:
    """Make the state of *action* in *world*; return its case and fields."""
    case = CASES[action.name]
    texts = {**case.prepare(world), "reason": WHY}
    if case.needs_approval:
        first = world.make(action, texts)
        assert first.status_code == 409
        world.approve_all()
    return case, texts
