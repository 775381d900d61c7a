"""
What laboratories measured is part of the result, and is printed.

A plugin of the whole suite: pytest-xdist's main process, which prints, reads no
``conftest.py`` below the first.
"""

from collections.abc import Callable, Mapping

import pytest


Figures = Mapping[str, float]
Tell = Callable[[Figures], None]

_NAME = "figures"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Who takes the figures of a test, which may fail or pass after that."""
    return lambda figures: record_property(_NAME, dict(figures))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of each test that has some."""
    told = [
        (report.nodeid, value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == _NAME and report.when == "call"
    ]
    if not told:
        return
    terminalreporter.section("figures")
    for test, figures in told:
        listed = (f"{name} {value:.4g}" for name, value in figures.items())
        terminalreporter.line(f"{test}: {'; '.join(listed)}")
