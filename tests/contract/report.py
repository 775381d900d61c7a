"""
Which backends kept the contract is part of the result, and is printed.

A plugin of the whole suite: pytest-xdist's main process, which prints, reads no
``conftest.py`` below the first.
"""

from typing import Any

import pytest

from tests.contract.devices import DEVICES


RAN = pytest.StashKey[set[str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the main process what this one ran on, where pytest-xdist split them."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        ran: set[str] = session.config.stash.get(RAN, set())
        output["key backends"] = sorted(ran)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what the processes of pytest-xdist ran on."""
    ran = getattr(node, "workeroutput", {}).get("key backends", [])
    node.config.stash.setdefault(RAN, set()).update(ran)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say on which backends the contract of key backends was tested."""
    ran = config.stash.get(RAN, None)
    if not ran:
        return
    missing = [name for name in DEVICES if name not in ran]
    terminalreporter.section("key backends")
    terminalreporter.line("contract tested on: " + ", ".join(sorted(ran)))
    if missing:
        terminalreporter.line("not tested on: " + ", ".join(missing))
