"""Fixtures for all tests."""

import gc
import os

import pytest

from tests.support.memory import memory_folder


pytest_plugins = [
    "tests.fixtures.softhsm",
    "tests.fixtures.kms",
    "tests.fixtures.stores",
    "tests.fixtures.chain",
    "tests.contract.report",
    "tests.crash.report",
]


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in memory."""
    folder = memory_folder()
    if folder is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collection."""
    # Each full collection would traverse them for half a second, while the deadlines
    # of the tests go on.
    gc.collect()
    gc.freeze()
