"""Processes die at each step of a rotation or a failover (A4, K18, O1, O8)."""

import itertools

import pytest

from tests.crash.conftest import Open, Stack
from tests.crash.crash_points import RELOCATING, RETIRING, ROTATING, SEALING, names
from tests.crash.gateway_process import Load
from tests.crash.rotation_checks import (
    SETTINGS,
    assert_verified,
    count_events,
    is_drained,
    wrong_keys,
)


# Either role signs checkpoints, by chance: one of these is enough.
_SIGNING = [
    f"{role}/store.keep_checkpoint:{when}"
    for role in ("admin", "worker")
    for when in ("before", "after")
]
_ROTATION_POINTS = [
    *names("admin", ROTATING),
    *names("admin", SEALING),
    *names("worker", SEALING),
    *names("worker", RETIRING),
]
_CERTAIN = frozenset(_ROTATION_POINTS) - frozenset(_SIGNING)
_FAILOVER_POINTS = names("admin", RELOCATING)
_COMPROMISE_POINTS = names(
    "admin",
    {
        14: (
            "store.begin_rotation:after",
            "store.activate:before",
            "store.activate:after",
        )
    },
)

_OTHER_REGION = "eu-west-1"


def test_a_repeated_request_completes_the_rotation(
    open_laboratory: Open, stack: Stack
) -> None:
    """It rotates once, one key is active, and no other key is used."""
    lab = open_laboratory(
        stack.database_url,
        use_kms=stack.use_kms,
        crash_at=_ROTATION_POINTS,
        spares=3,
        settings=SETTINGS,
    )
    admin = lab.admin_client()
    gateway = lab.start_gateway(Load("rotation-kills", concurrency=4))
    keys = itertools.cycle([*lab.device.spares, lab.device.key])
    rotations = 0
    for key in itertools.islice(keys, 3 * len(_ROTATION_POINTS)):
        admin.rotate_until_done(key.name)
        rotations += 1
        lab.sleep(1)
        if lab.crash_points() >= _CERTAIN:
            break
    lab.settle(gateway)
    drained = lab.wait(lambda: is_drained(lab), 30)
    evidence = lab.evidence()

    lab.assert_reached(_CERTAIN)
    assert lab.crash_points() & set(_SIGNING), lab.explain("no checkpoint")
    assert drained, lab.explain(evidence.keys)
    lab.assert_no_violations()
    wrong = [*wrong_keys(lab, evidence, admin.responses)]
    assert wrong == [], lab.explain(wrong)
    assert max(key.epoch or 0 for key in evidence.keys) == rotations + 1
    assert count_events(evidence, "key-rotate-succeeded") == rotations
    assert_verified(lab)


@pytest.mark.soak
def test_only_the_named_key_is_revoked(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """Repeating the request revokes that key once, wherever a process died."""
    lab = open_laboratory(
        empty_sqlite_url, spares=2, crash_at=_COMPROMISE_POINTS, settings=SETTINGS
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

    lab.assert_reached(_COMPROMISE_POINTS)
    statuses = [each.status for each in (done, again, onwards, late)]
    assert statuses == [200, 200, 200, 409]
    assert again.document["previousAddress"] == old
    states = {key.address: key.state for key in evidence.keys}
    assert (states[old.lower()], states[onwards.address]) == ("blocked", "active")
    assert states[done.address] in {"draining", "retired"}
    assert count_events(evidence, "key-rotate-succeeded") == 2
    lab.assert_no_violations()
    assert_verified(lab)


def test_a_failover_completes_wherever_a_process_dies(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """Repeating the request moves the key once; the same key pays throughout."""
    lab = open_laboratory(
        empty_sqlite_url, use_kms=True, crash_at=_FAILOVER_POINTS, settings=SETTINGS
    )
    key, kms = lab.device.key, lab.device.kms
    assert kms is not None
    replicas = itertools.cycle([kms.replicate(key.name, _OTHER_REGION), key.name])
    admin = lab.admin_client()
    gateway = lab.start_gateway(Load("relocation-kills", concurrency=4))
    moves = 0
    for replica in itertools.islice(replicas, 3 * len(_FAILOVER_POINTS)):
        admin.fail_over_until_done(replica)
        moves += 1
        lab.sleep(0.5)
        if lab.crash_points() >= set(_FAILOVER_POINTS):
            break
    lab.settle(gateway)
    evidence = lab.evidence()

    lab.assert_reached(_FAILOVER_POINTS)
    lab.assert_no_violations()
    (row,) = evidence.keys
    assert (row.state, row.epoch) == ("active", 1)
    addresses = {each.address for each in admin.responses if each.is_done}
    assert addresses == {key.address.lower()}
    assert count_events(evidence, "key-failover-succeeded") == moves
    assert {signed.region for signed in kms.trail} == {kms.region, _OTHER_REGION}
    assert_verified(lab)
