"""
A pytest plugin that measures the coverage of ``signer`` by its own tests only.

With ``CORE_COVERAGE`` set, the process that forks the workers measures what it imports
(``forked_workers.py``), and each worker goes on in the tests of the core.  They take a
third more CPU time, and a run of their own is not needed.
"""

import functools
import sys
from collections.abc import Generator

import coverage
import pytest

from tests.support.distribution import LONG


CORE = (
    "signer/",
    "tests/unit/signer/",
    # Extras whose tests reach lines of the core.
    "tests/extras/top_ups/test_top_ups.py",
    "tests/extras/restore/test_evidence.py",
    "tests/extras/restore/test_restored_calls.py",
    "tests/extras/restore/test_restorer.py",
)


class _Measurement:
    """Measures in the tests of ``CORE``."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._coverage = measured
        self._runs = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item
    ) -> Generator[None, object, object]:
        # The longest tests measure nothing: the others reach every line.
        self._switch(item.nodeid.startswith(CORE) and not item.nodeid.startswith(LONG))
        return (yield)

    def pytest_sessionfinish(self) -> None:
        self._switch(False)
        self._coverage.save()

    def _switch(self, runs: bool) -> None:
        if runs is not self._runs:
            if runs:
                _forget_answers()
            (self._coverage.start if runs else self._coverage.stop)()
            self._runs = runs


def _forget_answers() -> None:
    """Empty the caches of the core: an answer from another test runs no line."""
    for name, module in sys.modules.items():
        if name.startswith("signer."):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def pytest_configure(config: pytest.Config) -> None:
    """Continue the measurement that a worker has inherited."""
    measured = coverage.Coverage.current()
    if measured and hasattr(config, "workerinput"):
        config.pluginmanager.register(_Measurement(measured))
