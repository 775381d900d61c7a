"""The long tests: one point at a time, and thousands of kills (G1, G2, R5)."""

import pytest

from tests.crash.conftest import Open
from tests.crash.kills import POINTS, strike


_on_each_database = pytest.mark.parametrize(
    "database",
    ["empty_sqlite_url", "empty_postgresql_url"],
    ids=["sqlite", "postgresql"],
)


@pytest.mark.soak
@pytest.mark.parametrize("point", POINTS)
@_on_each_database
def test_survives_one_point(
    open_laboratory: Open, request: pytest.FixtureRequest, database: str, point: str
) -> None:
    """A single death at a single point harms nobody; where a failure is isolated."""
    # The workers get something to send only when the API dies before it.
    left_behind = ["api/store.accept:after"] if point.startswith("worker") else []
    url = request.getfixturevalue(database)
    lab = open_laboratory(url, crash_at=[point, *left_behind])

    driver = lab.drive("point", concurrency=4)
    lab.wait(lambda: point in lab.crash_points(), 60)
    lab.settle(driver)

    assert point in lab.crash_points(), lab.explain("the point was not reached")
    assert lab.violations() == [], lab.explain("see the list")


@pytest.mark.soak
@_on_each_database
def test_survives_many_kills(
    open_laboratory: Open, request: pytest.FixtureRequest, database: str
) -> None:
    """However often processes are killed, each refund is paid once (G1)."""
    lab = open_laboratory(request.getfixturevalue(database))

    driver = lab.drive("kills")
    strike(lab, 2_000, most=0.6)
    lab.settle(driver)

    assert lab.violations() == [], lab.explain("see the list")
