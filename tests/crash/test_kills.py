"""
Processes are killed with -9, at named points and at random instants (G1, G2, R5).

What each proves is that no invariant of ``invariants.py`` is broken: nothing paid
twice, lost, or paid to somebody else, and all of it final within a minute.
"""

import pytest

from tests.crash.conftest import SEED, Open
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory
from tests.crash.points import API, WORKER, names


_POINTS = [*names("api", API), *names("worker", WORKER)]

_on_each_database = pytest.mark.parametrize(
    "database",
    ["empty_sqlite_url", "empty_postgresql_url"],
    ids=["sqlite", "postgresql"],
)


def _kill(lab: Laboratory, count: int, *, most: float) -> None:
    """Kill *count* times, *most* seconds apart; each tenth time, pause somebody."""
    killer = Killer(lab.supervisor, SEED)
    while len(killer.strikes) < count:
        if len(killer.strikes) % 10 == 9:
            killer.pause(0.5, lab.sleep)
        else:
            killer.kill()
        lab.sleep(killer.wait(most))


@_on_each_database
def test_survives_every_named_point_and_random_kills(
    open_laboratory: Open, request: pytest.FixtureRequest, database: str
) -> None:
    """With 20 refunds in flight, each is paid once, wherever processes die."""
    url = request.getfixturevalue(database)
    lab = open_laboratory(url, crash_at=_POINTS)

    driver = lab.drive("kills")
    _kill(lab, 20, most=0.8)
    lab.wait(lambda: len(lab.crash_points()) == len(_POINTS), 60)
    lab.settle(driver)

    assert set(_POINTS) == lab.crash_points(), lab.explain("points not reached")
    assert lab.violations() == [], lab.explain("see the list")


@pytest.mark.soak
@pytest.mark.parametrize("point", _POINTS)
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
@pytest.mark.parametrize("kills", [200, 2_000], ids=["hundreds", "thousands"])
@_on_each_database
def test_survives_many_kills(
    open_laboratory: Open, request: pytest.FixtureRequest, database: str, kills: int
) -> None:
    """However often processes are killed, each refund is paid once (G1)."""
    lab = open_laboratory(request.getfixturevalue(database))

    driver = lab.drive("kills")
    _kill(lab, kills, most=0.6)
    lab.settle(driver)

    assert lab.violations() == [], lab.explain("see the list")
