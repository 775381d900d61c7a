"""Processes die at each step of a rotation from a compromised key (O1, O8)."""

import pytest

from tests.crash.conftest import Open
from tests.crash.points import names
from tests.crash.rotating import SETTINGS, administrator, verified


POINTS = names(
    "api",
    {
        14: (
            "store.begin_rotation:after",
            "store.activate:before",
            "store.activate:after",
        )
    },
)


@pytest.mark.soak
def test_blocks_the_key_that_was_meant_wherever_it_dies(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """Asking again, in the same words, blocks that key once, and no other one ever."""
    lab = open_laboratory(
        empty_sqlite_url, spares=2, crash_at=POINTS, settings=SETTINGS
    )
    first, second = (spare.name for spare in lab.key.spares)
    old = lab.key.address
    admin = administrator(lab)
    driver = lab.drive("compromise-kills", concurrency=4)
    lab.sleep(2)

    done = admin.insist(first, compromised=True, activeAddress=old)
    again = admin.rotate(first, compromised=True, activeAddress=old)
    on = admin.insist(second)
    late = admin.rotate(first, compromised=True, activeAddress=old)
    lab.settle(driver)
    evidence = lab.evidence()

    assert lab.crash_points() >= set(POINTS), lab.explain("points not reached")
    assert [each.status for each in (done, again, on, late)] == [200, 200, 200, 409]
    assert again.document["previousAddress"] == old
    states = {key.address: key.state for key in evidence.keys}
    assert (states[old.lower()], states[on.address]) == ("blocked", "active")
    assert states[done.address] in {"draining", "retired"}
    rotations = [
        record
        for record in evidence.audit
        if (record.said["event"], record.said.get("outcome"))
        == ("key-rotate-succeeded", "success")
    ]
    assert len(rotations) == 2
    assert lab.violations() == [], lab.explain("see the list")
    assert verified(lab).is_good, lab.explain(verified(lab))
