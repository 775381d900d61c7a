"""Which backends kept the contract is part of the result, and is printed."""

from typing import Any

import pytest

from tests.contract.devices import DEVICES, Device, open_device


_RAN = pytest.StashKey[set[str]]()


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    """Each key backend in turn, with a key in it."""
    opened = open_device(request.param, request)
    request.config.stash.setdefault(_RAN, set()).add(request.param)
    return opened


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the main process what this one ran on, where pytest-xdist split them."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        ran: set[str] = session.config.stash.get(_RAN, set())
        output["key backends"] = sorted(ran)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what the processes of pytest-xdist ran on."""
    ran = getattr(node, "workeroutput", {}).get("key backends", [])
    node.config.stash.setdefault(_RAN, set()).update(ran)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say on which backends the contract of key backends was tested."""
    ran = config.stash.get(_RAN, None)
    if not ran:
        return
    missing = [name for name in DEVICES if name not in ran]
    terminalreporter.section("key backends")
    terminalreporter.line("contract tested on: " + ", ".join(sorted(ran)))
    if missing:
        terminalreporter.line("not tested on: " + ", ".join(missing))
