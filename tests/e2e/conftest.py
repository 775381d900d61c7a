"""The chains of these tests: anvil, and others with a block every two seconds."""

from typing import Any, cast

import pytest

from tests.fixtures.chain import ON_GETH, DevChain, Hardhat
from tests.fixtures.geth import GethChain, running_geth


_BLOCK_SECONDS = 2
LONG_ON_GETH = pytest.param("geth", marks=[pytest.mark.nodes, pytest.mark.soak])
"""For tests that `make nodes` has no time for."""

_ON_HARDHAT = pytest.param("hardhat", marks=[pytest.mark.nodes, pytest.mark.soak])

CHAINS = ["anvil", ON_GETH, _ON_HARDHAT]
LONG_CHAINS = ["anvil", LONG_ON_GETH, _ON_HARDHAT]


def chain_options(name: str) -> dict[str, Any]:
    """Return the options of ``running_stack`` for a chain."""
    if name == "anvil":
        return {}
    chain = running_geth(is_archive=True) if name == "geth" else Hardhat()
    return {"chain": chain, "block_time": _BLOCK_SECONDS}


@pytest.fixture(params=["fresh_anvil", LONG_ON_GETH])
def local_chain(request: pytest.FixtureRequest) -> DevChain:
    """Each chain in turn, as new; only anvil mines each transaction at once."""
    chain = cast("DevChain", request.getfixturevalue(request.param))
    if isinstance(chain, GethChain):
        chain.node.mine_every(_BLOCK_SECONDS)
    return chain
