"""
G19: every command in an environment full of planted secrets, and what fails under it.

One thing shows a whole key id on purpose, and is not looked at: ``softhsm init``, which
tells the id of the key that it made.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import kms_faults as faults
from dev.kms_emulator import KMSEmulator
from tests.e2e.failures import (
    database_failures,
    kms_failures,
    node_failures,
    setting_failures,
)
from tests.e2e.gossip import Gossip, Mood, Role
from tests.e2e.planted import planted
from tests.fixtures.plain_server import PlainServer
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.tenant import Tenant
from tests.support.canaries import ALL, CANARIES, Detector, value
from tests.support.preloaded import run


@pytest.fixture(scope="module")
def gossip() -> Iterator[Gossip]:
    """Node, issuer and webhook, all in a bad mood."""
    with Gossip() as server:
        server.moods = dict.fromkeys(Role, Mood.UNAVAILABLE)
        # What may pass is tried for five seconds; this never will.
        server.moods[Role.WEBHOOK] = Mood.FORBIDDEN
        yield server


@pytest.fixture(scope="module")
def kms(aws_environment: None) -> Iterator[KMSEmulator]:
    """A KMS that refuses everything, and says why."""
    with KMSEmulator() as emulator:
        for operation in ("GetPublicKey", "Sign", "DescribeKey"):
            emulator.faults.always(
                operation, faults.refuse("AccessDeniedException", ALL)
            )
        yield emulator


@pytest.fixture(scope="module")
def tenant(postgresql: PostgreSQL) -> Iterator[Tenant]:
    """Who has the right password."""
    names = ("dsn-user", "dsn-password", "dsn-database")
    with Tenant(postgresql, *map(value, names)) as tenant:
        yield tenant


def test_no_failure_tells_a_secret(
    tmp_path: Path, gossip: Gossip, kms: KMSEmulator, tenant: Tenant
) -> None:
    """Over forty failures, each with its cure: nothing that is said has a canary."""
    detector = Detector(CANARIES.values())
    home = tmp_path / "home"
    environ = planted(home, gossip)
    # The guard enrols the key, so that it is in the ring.
    first = [(("softhsm", "init"), environ), (("guard",), environ)]
    made, _ = run(tmp_path / "first", first, at_once=1)
    assert made.status == 0, made.stderr
    with PlainServer() as plain:
        runs = [
            *node_failures(),
            *kms_failures(home, kms),
            *setting_failures(home, environ, gossip),
            *database_failures(tenant, plain),
        ]
        done = run(
            tmp_path / "runs",
            [(each.command, {**environ, **each.changes}) for each in runs],
        )

    shown = {"alerts": "\n".join(gossip.alerts)}
    wrong = {}
    for each, finished in zip(runs, done, strict=True):
        shown[f"{each.name}: stdout"] = finished.stdout
        shown[f"{each.name}: stderr"] = finished.stderr
        said = finished.stdout + finished.stderr
        if finished.status != each.status or each.told not in said:
            wrong[each.name] = (finished.status, said[-500:])

    assert wrong == {}
    assert "rotation-refused" in shown["alerts"]
    assert detector.leaks(shown) == {}
    assert len(runs) > 40
    assert detector.checked >= 50 * 2 * len(runs)
