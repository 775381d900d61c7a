"""A world whose log is kept."""

from collections.abc import Callable
from pathlib import Path

import pytest

from signer.ports.ledger import Ledger
from tests.support.refunds import FakeClock
from tests.support.restores import Opened, Restored
from tests.unit.signer.conftest import clock, empty, opened


__all__ = ["clock", "empty", "opened"]


@pytest.fixture
def world(
    empty: Callable[[], Ledger], clock: FakeClock, tmp_path: Path, opened: Opened
) -> Restored:
    """Return a service in one process, whose log and backups are kept."""
    return Restored(empty(), clock, tmp_path, opened)
