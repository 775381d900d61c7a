"""A world whose log is kept, with a vault that holds the tokens."""

import pytest

from tests.api.cli.conftest import files, journal
from tests.fixtures.scripted_chain import TOKEN
from tests.fixtures.scripted_vault import ScriptedVault
from tests.support.refunds import World
from tests.support.restores import keep_log
from tests.unit.signer.conftest import backup, clock, empty, left, opened, wiped, world


__all__ = [
    "backup",
    "clock",
    "empty",
    "files",
    "journal",
    "left",
    "opened",
    "wiped",
    "world",
]

VAULT = "0x0165878A594ca255338adfa4d48449f69242Eb8F"


@pytest.fixture
def vault_world(world: World) -> World:
    """Return a process of the service that pays batches."""
    keep_log(world)
    own = {world.signer.address}
    world.chain.vaults[VAULT] = ScriptedVault(VAULT, TOKEN, own)
    world.network = world.network.model_copy(update={"vault": VAULT})
    world.compile_policy()
    return world
