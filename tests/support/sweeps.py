"""A former key with a balance on the scripted chain, and a sweeper for it."""

from signer.audit.log import AuditLog
from signer.model.refund import Refund
from signer.ports.chain import Call
from signer.refunds.sweep import Sweeper
from tests.fixtures.scripted_chain import DECIMALS
from tests.support.devices import recording
from tests.support.keys import made_active
from tests.support.refunds import ACTOR, World, altered


COINS = 10**18
TOKENS = 7 * 10**DECIMALS


class Left:
    """The balances of the former key's address."""

    def __init__(self) -> None:
        self.tokens = TOKENS
        self.coins = COINS


def left_behind(world: World) -> Left:
    """Pay a refund, rotate to the second key, and return the old address's balances."""
    holding = Left()

    def call(call: Call) -> bytes:
        tokens: int = holding.tokens
        return tokens.to_bytes(32, "big")

    world.client = altered(
        world.chain, call=call, balance=lambda address: holding.coins
    )
    world.paid()
    world.rotate()
    return holding


def rolled_back(world: World) -> None:
    """Make the former key the active one again."""
    made_active(world.store, world.key)


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
