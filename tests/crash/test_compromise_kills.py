"""Processes die at each step of a rotation from a compromised key (O1, O8)."""

import pytest

from tests.crash.conftest import Open
from tests.crash.crash_points import names
from tests.crash.gateway_process import Load
from tests.crash.rotation_checks import SETTINGS, assert_verified, count_events


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
def test_only_the_named_key_is_revoked(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """Repeating the request revokes that key once, wherever a process died."""
    lab = open_laboratory(
        empty_sqlite_url, spares=2, crash_at=POINTS, settings=SETTINGS
    )
    first, second = (spare.name for spare in lab.device.spares)
    old = lab.device.key.address
    admin = lab.admin_client()
    gateway = lab.start_gateway(Load("compromise-kills", concurrency=4))
    assert lab.wait(lambda: bool(lab.evidence().signed), 30), lab.explain("no refunds")

    done = admin.rotate_until_done(first, compromised=True, activeAddress=old)
    again = admin.rotate(first, compromised=True, activeAddress=old)
    onwards = admin.rotate_until_done(second)
    late = admin.rotate(first, compromised=True, activeAddress=old)
    lab.settle(gateway)
    evidence = lab.evidence()

    lab.assert_reached(POINTS)
    statuses = [each.status for each in (done, again, onwards, late)]
    assert statuses == [200, 200, 200, 409]
    assert again.document["previousAddress"] == old
    states = {key.address: key.state for key in evidence.keys}
    assert (states[old.lower()], states[onwards.address]) == ("blocked", "active")
    assert states[done.address] in {"draining", "retired"}
    assert count_events(evidence, "key-rotate-succeeded") == 2
    lab.assert_no_violations()
    assert_verified(lab)
