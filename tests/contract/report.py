"""
A pytest plugin that prints on which key backends the contract was tested.

It is registered for the whole suite, since the main process of pytest-xdist reads only
the first ``conftest.py``.
"""

from typing import Any

import pytest

from tests.contract.devices import DEVICES


RAN = pytest.StashKey[set[str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report this worker's backends to the main process of pytest-xdist."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        ran: set[str] = session.config.stash.get(RAN, set())
        output["key backends"] = sorted(ran)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the backends of all workers of pytest-xdist."""
    ran = getattr(node, "workeroutput", {}).get("key backends", [])
    node.config.stash.setdefault(RAN, set()).update(ran)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the backends on which the contract was tested, and those missing."""
    ran = config.stash.get(RAN, None)
    if not ran:
        return
    missing = [name for name in DEVICES if name not in ran]
    terminalreporter.section("key backends")
    terminalreporter.line("contract tested on: " + ", ".join(sorted(ran)))
    if missing:
        terminalreporter.line("not tested on: " + ", ".join(missing))
