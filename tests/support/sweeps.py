"""A former key with a balance on the scripted chain, and a sweeper for it."""

import coincurve

from signer.audit.log import AuditLog
from signer.model.refund import Refund
from signer.ports import Call
from signer.refunds.sweep import Sweeper
from tests.fixtures.scripted_chain import DECIMALS
from tests.support.devices import honest, recording, signer_over
from tests.support.keys import key_at, made_active
from tests.support.refunds import ACTOR, World, altered


NEW = signer_over(honest(coincurve.PrivateKey.from_int(99)))
THIRD = signer_over(honest(coincurve.PrivateKey.from_int(98)))
COINS = 10**18
TOKENS = 7 * 10**DECIMALS


class Left:
    """The balances of the former key's address."""

    def __init__(self) -> None:
        self.tokens = TOKENS
        self.coins = COINS


def left_behind(world: World) -> Left:
    """Pay a refund, rotate to ``NEW``, and return the old address's balances."""
    holding = Left()
    world.others = (NEW, THIRD)

    def call(call: Call) -> bytes:
        tokens: int = holding.tokens
        return tokens.to_bytes(32, "big")

    world.client = altered(
        world.chain, call=call, balance=lambda address: holding.coins
    )
    world.step(world.accepted(), times=3)
    settled(world)
    made_active(world.store, key_at(NEW.address))
    return holding


def settled(world: World) -> None:
    """Mine what was broadcast, and track it until it is confirmed."""
    world.mine_deep()
    world.confirmation_tracker.track()
    world.confirmation_tracker.track()


def given_up(world: World) -> None:
    """Revoke ``NEW`` as compromised, and make ``THIRD`` active."""
    made_active(world.store, key_at(THIRD.address), block=True)


def rolled_back(world: World) -> None:
    """Make the former key the active one again."""
    address = world.signer.address
    former = next(key for key in world.ring.refresh() if key.address == address)
    made_active(world.store, former)


def sweeper(world: World, audit: AuditLog | None = None) -> Sweeper:
    """Return a sweeper that writes to *audit*."""
    return Sweeper(
        world.store,
        world.store,
        world.ring,
        world.chains,
        audit=audit or recording()[0],
        clock=world.clock,
    )


def swept(world: World) -> list[Refund]:
    """Sweep the first key's address, and return the stored sweeps."""
    items = sweeper(world).sweep(world.signer.address, ACTOR)
    return [item.refund for item in items if item.refund is not None]
