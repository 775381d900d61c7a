"""Processes die at each step of a failover between KMS regions (K18, O1)."""

import itertools

from tests.crash.conftest import Open
from tests.crash.crash_points import RELOCATING, names
from tests.crash.gateway_process import Load
from tests.crash.rotation_checks import SETTINGS, assert_verified, count_events


POINTS = names("api", RELOCATING)
OTHER_REGION = "eu-west-1"


def test_a_failover_completes_wherever_a_process_dies(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """Repeating the request moves the key once; the same key pays throughout."""
    lab = open_laboratory(
        empty_sqlite_url, use_kms=True, crash_at=POINTS, settings=SETTINGS
    )
    key, kms = lab.device.key, lab.device.kms
    assert kms is not None
    replicas = itertools.cycle([kms.replicate(key.name, OTHER_REGION), key.name])
    admin = lab.admin_client()
    gateway = lab.start_gateway(Load("relocation-kills", concurrency=4))
    moves = 0
    for replica in itertools.islice(replicas, 3 * len(POINTS)):
        admin.fail_over_until_done(replica)
        moves += 1
        lab.sleep(0.5)
        if lab.crash_points() >= set(POINTS):
            break
    lab.settle(gateway)
    evidence = lab.evidence()

    lab.assert_reached(POINTS)
    lab.assert_no_violations()
    (row,) = evidence.keys
    assert (row.state, row.epoch) == ("active", 1)
    addresses = {each.address for each in admin.responses if each.is_done}
    assert addresses == {key.address.lower()}
    assert count_events(evidence, "key-failover-succeeded") == moves
    assert {signed.region for signed in kms.trail} == {kms.region, OTHER_REGION}
    assert_verified(lab)
