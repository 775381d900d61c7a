"""Fixtures that open a laboratory for one test."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.crash.laboratory import Laboratory


SEED = int(os.environ.get("CRASH_SEED", "20"))
"""To choose another: ``CRASH_SEED=21 make test ARGS=tests/crash``."""

Open = Callable[..., Laboratory]


@dataclass(frozen=True)
class Stack:
    """A database, and the device that is used with it."""

    database_url: str
    use_kms: bool


@pytest.fixture(params=["kms-postgresql", "softhsm-sqlite"])
def stack(request: pytest.FixtureRequest) -> Stack:
    """Production's KMS with PostgreSQL, and development's SoftHSM with SQLite."""
    device, database = request.param.split("-")
    return Stack(request.getfixturevalue(f"empty_{database}_url"), device == "kms")


@pytest.fixture
def open_laboratory(tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a laboratory until the end of the test."""
    with ExitStack() as stack:

        def open_one(database_url: str, **options: Any) -> Laboratory:
            home = tmp_path / "laboratory"
            home.mkdir()
            return stack.enter_context(
                Laboratory(home, database_url, seed=SEED, **options)
            )

        yield open_one
