"""
A pytest plugin that prints what tests measured.

``tests/conftest.py`` loads it: pytest-xdist's main process, which prints, reads only
that ``conftest.py``.
"""

from collections.abc import Callable, Mapping

import pytest


Figures = Mapping[str, float]
ReportFigures = Callable[[Figures], None]

_NAME = "figures"


@pytest.fixture
def report_figures(record_property: Callable[[str, object], None]) -> ReportFigures:
    """Return a function that adds figures to the test's report."""
    return lambda figures: record_property(_NAME, dict(figures))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of each test that has some."""
    found = [
        (test.nodeid, value)
        for outcome in ("passed", "failed")
        for test in terminalreporter.getreports(outcome)
        for name, value in test.user_properties
        if name == _NAME and test.when == "call"
    ]
    if not found:
        return
    terminalreporter.section("figures")
    for test, figures in found:
        listed = (f"{name} {value:.4g}" for name, value in figures.items())
        terminalreporter.line(f"{test}: {'; '.join(listed)}")
