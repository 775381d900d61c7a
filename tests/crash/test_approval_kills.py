"""
Administrators' processes die at each step of a change that needs two of them.

Nothing is done that was not approved, and nothing that was approved is forgotten.
"""

from functools import partial

import pytest

from tests.crash.approval_laboratory import (
    CHANGES,
    DECISIONS,
    Report,
    kill_at_each_step,
)
from tests.fixtures.races import start_process


def _killed(name: str, step: str, url: str) -> Report:
    process, line = start_process(partial(kill_at_each_step, name, step), url)
    report = line.recv()
    process.join(30)
    assert isinstance(report, Report)
    return report


@pytest.mark.parametrize("step", DECISIONS)
def test_a_process_that_asks_or_decides_dies(database_url: str, step: str) -> None:
    """The proposal waits or is decided, with its record; repeating goes on."""
    report = _killed("resume", step, database_url)

    assert report.violations == []
    assert report.deaths > 3
    assert report.made >= 1


@pytest.mark.parametrize("name", CHANGES)
def test_a_process_that_makes_the_change_dies(database_url: str, name: str) -> None:
    """The change is made and its approval used, or neither; repeating completes it."""
    report = _killed(name, "execute", database_url)

    assert report.violations == []
    assert report.deaths > 8
    assert report.made >= 2
