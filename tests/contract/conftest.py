"""Which backends kept the contract is part of the result, and is printed."""

import pytest

from tests.contract.devices import DEVICES, Device, open_device


_RAN = pytest.StashKey[set[str]]()


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    """Each key backend in turn, with a key in it."""
    opened = open_device(request.param, request)
    request.config.stash.setdefault(_RAN, set()).add(request.param)
    return opened


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say on which backends the contract of key backends was tested."""
    ran = config.stash.get(_RAN, None)
    if ran is None:
        return
    missing = [name for name in DEVICES if name not in ran]
    terminalreporter.section("key backends")
    terminalreporter.line("contract tested on: " + ", ".join(sorted(ran)))
    if missing:
        terminalreporter.line("not tested on: " + ", ".join(missing))
