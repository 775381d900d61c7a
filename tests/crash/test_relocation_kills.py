"""Processes die at each step of a relocation, under load (K18, O1)."""

import itertools

from tests.crash.conftest import Open
from tests.crash.points import RELOCATING, names
from tests.crash.rotating import SETTINGS, administrator, verified


POINTS = names("api", RELOCATING)
THERE = "eu-west-1"


def test_goes_on_wherever_it_dies(open_laboratory: Open, empty_sqlite_url: str) -> None:
    """Asking again moves the key once; refunds are paid by the same key throughout."""
    lab = open_laboratory(
        empty_sqlite_url, use_kms=True, crash_at=POINTS, settings=SETTINGS
    )
    kms = lab.key.kms
    assert kms is not None
    places = itertools.cycle([kms.replicate(lab.key.name, THERE), lab.key.name])
    admin = administrator(lab)
    driver = lab.drive("relocation-kills", concurrency=4)
    moves = 0
    for place in itertools.islice(places, 3 * len(POINTS)):
        admin.move(place)
        moves += 1
        lab.sleep(0.5)
        if lab.crash_points() >= set(POINTS):
            break
    lab.settle(driver)
    evidence = lab.evidence()

    assert lab.crash_points() >= set(POINTS), lab.explain("points not reached")
    assert lab.violations() == [], lab.explain("see the list")
    (key,) = evidence.keys
    assert (key.state, key.epoch) == ("active", 1)
    assert {answer.address for answer in admin.answers if answer.is_done} == {
        lab.key.address.lower()
    }
    done = [e for e in evidence.audit if e.said["event"] == "key-failover-succeeded"]
    assert len(done) == moves
    assert {signed.region for signed in kms.trail} == {kms.region, THERE}
    assert verified(lab).is_good, lab.explain(verified(lab))
