"""
A pytest plugin that distributes the tests so that all cores compute until the end.

With ``--dist loadfile`` a worker runs whole files, except for the longest tests, which
are distributed one by one, the longest first.  Every second worker prefers tests that
mostly wait for other processes, while the others compute.
"""

import os
import random
import sys
import threading
from collections.abc import Generator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.support.forked_workers import fork_workers


_CRASH = "tests/crash/"

LONG = (
    _CRASH,
    "tests/simulation/",
    "tests/signatures/",
    "tests/unit/signer/refunds/test_crashes.py",
    "tests/extras/restore/test_restore_crashes.py",
)
"""Their tests run for seconds to minutes, and share no fixture that is slow to make."""

WAITING = (_CRASH, "tests/e2e/", "tests/extras/drills/")

# What begins late and runs for long would leave the other workers without work.
LONGEST_FIRST = (
    "tests/e2e/test_faults.py",
    "tests/crash/test_key_change_kills.py",
    "tests/crash/test_replacements.py",
    "tests/crash/test_kills.py",
    "tests/crash/test_random_faults.py",
    "tests/crash/test_lost_replies.py",
    "tests/e2e/",
    "tests/extras/drills/",
    "tests/crash/",
    "tests/api/server/test_schemathesis.py",
    "tests/simulation/test_planted_bugs.py",
    "tests/browser/",
    "tests/signatures/",
    "tests/simulation/",
    "tests/integration/",
    "tests/unit/signer/refunds/test_crashes.py",
    "tests/extras/restore/test_restore_crashes.py",
    "tests/unit/dev/test_contracts.py",
    "tests/extras/audit_report/",
    "tests/clients/",
    "tests/unit/signer/startup/test_guard_everywhere.py",
    "tests/attacks/",
    "tests/contract/",
    "tests/api/",
)


class Distribution(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types.
    """See the module."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(LONG) else nodeid.partition("::")[0]

    def _assign_work_unit(self, node: Any) -> None:
        waits = node in self.nodes[::2]

        def rank(unit: str) -> tuple[bool, int]:
            return unit.startswith(WAITING) is not waits, place(unit)

        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)


def place(unit: str) -> int:
    """Return the place of a test or file in ``LONGEST_FIRST``, or the last one."""
    places = (n for n, each in enumerate(LONGEST_FIRST) if unit.startswith(each))
    return next(places, len(LONGEST_FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Distribution | None:
    """Refine ``--dist loadfile``."""
    if config.getoption("dist") != "loadfile":
        return None
    return Distribution(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Start the workers of ``--dist loadfile`` as forks."""
    if config.getoption("dist", "no") == "loadfile" and not config.option.collectonly:
        fork_workers(config)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """
    Shuffle the modules, and the tests in each, if ``TEST_ORDER`` is a seed.

    Measure no coverage in the longest tests: the other tests reach every line.
    """
    if "TEST_ORDER" in os.environ:
        shuffled = random.Random(os.environ["TEST_ORDER"])
        paths = sorted({item.path for item in items})
        order = {path: (shuffled.random(), path) for path in paths}
        items.sort(key=lambda item: (order[item.path], shuffled.random()))
    if config.pluginmanager.has_plugin("_cov"):
        for item in items:
            if item.nodeid.startswith(LONG):
                item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Trace nothing in the tests without coverage."""
    if item.get_closest_marker("no_cover"):
        # In a worker the pause of pytest-cov resumes a collector that it has started
        # before its own, whose tracer makes the test slower and whose data is lost.
        sys.settrace(None)
        threading.settrace(None)
    yield
