"""Rotations under load (O5)."""

import pytest

from tests.crash.conftest import Open, Stack
from tests.crash.laboratory import Laboratory
from tests.crash.report import Tell
from tests.crash.rotating import SETTINGS
from tests.crash.rotations import rotates_under_load


_FULL_RATE = 50.0


def test_rotates_twenty_times_under_load(
    open_laboratory: Open, stack: Stack, tell: Tell
) -> None:
    """Four workers of two instances follow each rotation, and no request fails."""
    lab = _laboratory(open_laboratory, stack)

    rotates_under_load(lab, tell)
    assert lab.key.log() or not stack.use_kms, "the device signed nothing"


@pytest.mark.soak
def test_rotates_at_full_rate(open_laboratory: Open, stack: Stack, tell: Tell) -> None:
    """50 refunds and 50 signatures a second, and twenty rotations among them (O5)."""
    rotates_under_load(_laboratory(open_laboratory, stack), tell, per_second=_FULL_RATE)


def _laboratory(open_laboratory: Open, stack: Stack) -> Laboratory:
    return open_laboratory(
        stack.database_url, use_kms=stack.use_kms, spares=3, settings=SETTINGS
    )
