"""Plugins with the fixtures of all tests."""

import gc
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from dev import programs
from tests.support.servers import memory_folder


collect_ignore = ["mutation/generate.py"]  # For another environment.

pytest_plugins = [
    "tests.fixtures.softhsm",
    "tests.fixtures.hsm_stand_in",
    "tests.fixtures.p11_kit",
    "tests.fixtures.hostile",
    "tests.fixtures.kms",
    "tests.fixtures.google_kms",
    "tests.fixtures.stores",
    "tests.fixtures.filled_store",
    "tests.fixtures.roles",
    "tests.fixtures.chain",
    "tests.fixtures.geth",
    "tests.contract.report",
    "tests.support.distribution",
    "tests.support.core_coverage",
]


def pytest_configure(config: pytest.Config) -> None:
    """Keep the temporary files of tests in memory, and find the fetched programs."""
    programs.use_fetched()
    folder = memory_folder()
    if folder is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose program this machine cannot have; in CI they fail."""
    needs = {
        item: {name for mark in item.iter_markers("needs") for name in mark.args}
        for item in items
    }
    missing = {*programs.missing(set().union(*needs.values()))}
    for item, names in needs.items():
        if (lacking := sorted(names & missing)) and "CI" not in os.environ:
            reason = f"missing: {', '.join(lacking)}"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[Any], list[Any]]:
    """Look for examples in docstrings only outside of the tests, which have none."""
    found = yield
    return [each for each in found if type(each).__name__ != "DoctestModule"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """
    Collect without garbage collection, and exclude the tests from it afterwards.

    It runs seldom then: by default it takes a tenth of the CPU time of the tests.
    """
    # Each full collection with them takes half a second of CPU, while the deadlines in
    # tests continue.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000)
        gc.enable()
