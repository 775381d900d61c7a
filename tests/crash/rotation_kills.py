"""Processes die at each step of a rotation, and of the sealing behind it (O1, A4)."""

import itertools
from collections.abc import Mapping
from typing import Any

from tests.crash.laboratory import Laboratory
from tests.crash.points import RETIRING, ROTATING, SEALING, names
from tests.crash.rotating import (
    administrator,
    is_drained,
    reigns,
    usurpers,
    verified,
)


# Whose turn it is to sign a checkpoint, chance decides: either role may die of it.
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


def resumes(lab: Laboratory) -> None:
    """Rotate until somebody has died at each point; one key is active in the end."""
    admin = administrator(lab)
    driver = lab.drive("rotation-kills", concurrency=4)
    ring = itertools.cycle([*(s.name for s in lab.key.spares), lab.key.name])
    rotations = 0
    for name in itertools.islice(ring, 3 * len(POINTS)):
        admin.insist(name)
        rotations += 1
        lab.sleep(1)
        if lab.crash_points() >= _CERTAIN:
            break
    lab.settle(driver)
    drained = lab.wait(lambda: is_drained(lab), 30)
    evidence = lab.evidence()

    assert lab.crash_points() >= _CERTAIN, lab.explain("points not reached")
    assert lab.crash_points() & set(_SIGNING), lab.explain("no checkpoint")
    assert drained, lab.explain(evidence.keys)
    assert lab.violations() == [], lab.explain("see the list")
    ruled = reigns(lab.key.address, admin.answers)
    usurped = [*usurpers(evidence, ruled)]
    assert usurped == [], lab.explain(usurped)
    assert max(key.epoch or 0 for key in evidence.keys) == rotations + 1
    done = [record for record in evidence.audit if _is_rotation(record.said)]
    assert len(done) == rotations
    assert verified(lab).is_good, lab.explain(verified(lab))


def _is_rotation(said: Mapping[str, Any]) -> bool:
    return (said["event"], said.get("outcome")) == ("key-rotate-succeeded", "success")
