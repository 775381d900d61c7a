"""Each key backend in turn."""

import pytest

from backends.testing import Device
from tests.contract.devices import DEVICES, MODULES, open_device
from tests.contract.report import RAN


@pytest.fixture(scope="session", params=[*DEVICES, *MODULES])
def device(request: pytest.FixtureRequest) -> Device:
    """Each key backend in turn, with a key in it."""
    opened = open_device(request.param, request)
    request.config.stash.setdefault(RAN, set()).add(request.param)
    return opened
