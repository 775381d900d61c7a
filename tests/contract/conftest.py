"""Each key backend in turn, and each way to a node."""

from collections.abc import Iterator

import pytest

from backends.json_rpc import JSONRPCChain
from backends.testing import Device
from tests.contract.devices import DEVICES, MODULES, open_device
from tests.contract.report import RAN
from tests.fixtures.chain import DevChain
from tests.fixtures.provider import Provider


@pytest.fixture(scope="session", params=[*DEVICES, *MODULES])
def device(request: pytest.FixtureRequest) -> Device:
    """Each key backend in turn, with a key in it."""
    opened = open_device(request.param, request)
    request.config.stash.setdefault(RAN, set()).add(request.param)
    return opened


@pytest.fixture(params=["node", "provider"])
def chain(
    request: pytest.FixtureRequest, dev_chain: DevChain
) -> Iterator[JSONRPCChain]:
    """Return the client of ``dev_chain``, and of a provider that limits requests."""
    if request.param == "node":
        yield JSONRPCChain([dev_chain.url], timeout=10)
        return
    with Provider(dev_chain.url) as provider:
        yield JSONRPCChain([provider.url], timeout=10)
