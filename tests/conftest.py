"""Fixtures that every test may ask for, each from the room that owns it."""

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
    """Keep the tests' ledgers, tokens and journals where no disk slows them down."""
    folder = memory_folder()
    if folder is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


def pytest_collection_finish() -> None:
    """Spare the collector the thousands of tests, which live as long as the process."""
    # Each full collection would walk over them: it took half a second of CPU, in which
    # nothing else ran, and the deadlines of the tests went on.
    gc.collect()
    gc.freeze()
