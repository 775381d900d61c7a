"""The chains of these tests: anvil, and geth with a block every two seconds."""

from typing import Any, cast

import pytest

from tests.fixtures.chain import ON_GETH, DevChain
from tests.fixtures.geth import GethChain, running_geth


_GETH_SECONDS = 2
LONG_ON_GETH = pytest.param("geth", marks=[pytest.mark.nodes, pytest.mark.soak])
"""For tests that `make nodes` has no time for."""

CHAINS, LONG_CHAINS = ["anvil", ON_GETH], ["anvil", LONG_ON_GETH]


def chain_options(name: str) -> dict[str, Any]:
    """Return the options of ``running_stack`` for a chain on anvil or geth."""
    if name == "geth":
        return {"chain": running_geth(), "block_time": _GETH_SECONDS}
    return {}


@pytest.fixture(params=["fresh_anvil", LONG_ON_GETH])
def local_chain(request: pytest.FixtureRequest) -> DevChain:
    """Each chain in turn, as new; only anvil mines each transaction at once."""
    chain = cast("DevChain", request.getfixturevalue(request.param))
    if isinstance(chain, GethChain):
        chain.node.mine_every(_GETH_SECONDS)
    return chain
