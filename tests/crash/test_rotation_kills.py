"""Processes die at each step of a rotation, of sealing and of retirement (O1, A4)."""

import itertools

from tests.crash.conftest import Open, Stack
from tests.crash.crash_points import RETIRING, ROTATING, SEALING, names
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
    for role in ("api", "worker")
    for when in ("before", "after")
]
POINTS = [
    *names("api", ROTATING),
    *names("api", SEALING),
    *names("worker", SEALING),
    *names("worker", RETIRING),
]
_CERTAIN = frozenset(POINTS) - frozenset(_SIGNING)


def test_a_repeated_request_completes_the_rotation(
    open_laboratory: Open, stack: Stack
) -> None:
    """It rotates once, one key is active, and no other key is used."""
    lab = open_laboratory(
        stack.database_url,
        use_kms=stack.use_kms,
        crash_at=POINTS,
        spares=3,
        settings=SETTINGS,
    )
    admin = lab.admin_client()
    gateway = lab.start_gateway(Load("rotation-kills", concurrency=4))
    keys = itertools.cycle([*lab.device.spares, lab.device.key])
    rotations = 0
    for key in itertools.islice(keys, 3 * len(POINTS)):
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
