"""Rotations at full rate, where the machine has nothing else to do."""

import pytest

from tests.crash.conftest import Open
from tests.crash.report import Tell
from tests.crash.rotating import SETTINGS
from tests.crash.rotations import rotates_under_load


_FULL_RATE = 50.0


@pytest.mark.soak
@pytest.mark.parametrize(
    ("database", "use_kms"),
    [("empty_postgresql_url", True), ("empty_sqlite_url", False)],
    ids=["kms", "softhsm"],
)
def test_rotates_at_full_rate(
    open_laboratory: Open,
    request: pytest.FixtureRequest,
    tell: Tell,
    database: str,
    use_kms: bool,
) -> None:
    """50 refunds and 50 signatures a second, and twenty rotations among them (O5)."""
    url = request.getfixturevalue(database)
    lab = open_laboratory(url, use_kms=use_kms, spares=3, settings=SETTINGS)

    rotates_under_load(lab, tell, per_second=_FULL_RATE)
