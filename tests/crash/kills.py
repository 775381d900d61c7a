"""Processes are killed with -9, at named points and at random instants."""

from tests.crash.conftest import SEED
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory
from tests.crash.points import API, WORKER, names


POINTS = [*names("api", API), *names("worker", WORKER)]


def strike(lab: Laboratory, count: int, *, most: float) -> None:
    """Kill *count* times, *most* seconds apart; each tenth time, pause somebody."""
    killer = Killer(lab.supervisor, SEED)
    while len(killer.strikes) < count:
        if len(killer.strikes) % 10 == 9:
            killer.pause(0.5, lab.sleep)
        else:
            killer.kill()
        lab.sleep(killer.wait(most))


def survives(lab: Laboratory, kills: int) -> None:
    """
    Strike at random, and at each named point, with 20 refunds in flight.

    No invariant of ``invariants.py`` may be broken: nothing paid twice, lost, or paid
    to somebody else, and all of it final within a minute.
    """
    driver = lab.drive("kills")
    strike(lab, kills, most=0.25)
    lab.wait(lambda: len(lab.crash_points()) == len(POINTS), 60)
    lab.settle(driver)

    assert set(POINTS) == lab.crash_points(), lab.explain("points not reached")
    assert lab.violations() == [], lab.explain("see the list")
