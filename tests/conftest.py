"""Plugins with the fixtures of all tests."""

import gc
import os
from collections.abc import Iterator

import pytest

from tests.support.memory import memory_folder


pytest_plugins = [
    "tests.fixtures.softhsm",
    "tests.fixtures.kms",
    "tests.fixtures.google_kms",
    "tests.fixtures.stores",
    "tests.fixtures.filled_store",
    "tests.fixtures.roles",
    "tests.fixtures.chain",
    "tests.contract.report",
    "tests.crash.report",
    "tests.support.distribution",
]


def pytest_configure(config: pytest.Config) -> None:
    """Keep the temporary files of tests in memory."""
    folder = memory_folder()
    if folder is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without garbage collection, and exclude the tests from it afterwards."""
    # Each full collection with them takes half a second of CPU, while the deadlines in
    # tests continue.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
