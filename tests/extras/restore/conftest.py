"""A world whose log is kept."""

from collections.abc import Sequence

import pytest

from signer.model.audit_record import Record
from tests.support.refunds import World
from tests.support.restores import keep_log
from tests.unit.signer.conftest import backup, clock, empty, left, opened, wiped, world


__all__ = ["backup", "clock", "empty", "left", "opened", "wiped", "world"]


@pytest.fixture
def log(world: World) -> Sequence[Record]:
    """The records of the log of *world*, which grow."""
    return keep_log(world)
