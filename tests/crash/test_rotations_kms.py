"""Rotations of keys in a KMS, under load, on PostgreSQL (O5)."""

from tests.crash.conftest import Open
from tests.crash.report import Tell
from tests.crash.rotating import SETTINGS
from tests.crash.rotations import rotates_under_load


def test_rotates_twenty_times_under_load(
    open_laboratory: Open, empty_postgresql_url: str, tell: Tell
) -> None:
    """Four workers of two instances follow each rotation, and nobody notices."""
    lab = open_laboratory(
        empty_postgresql_url, use_kms=True, spares=3, settings=SETTINGS
    )

    rotates_under_load(lab, tell)
    assert lab.key.log(), "the device signed nothing"
