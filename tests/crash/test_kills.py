"""Processes are killed at named points and at random instants (G1, G2, R5)."""

import random

import pytest

from signer.model.audit_record import Record
from tests.crash.conftest import SEED, Open
from tests.crash.crash_points import API, WORKER, names
from tests.crash.gateway_process import Load
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory
from tests.fixtures.geth import Geth
from tests.support.conformance.check import check_conformance
from tests.support.traces import MUTATIONS


POINTS = [*names("api", API), *names("worker", WORKER)]

_CONFIRMATIONS = 5
_KILLS = 100
"""On each of two databases, so 200 in all."""


def _kill_at_random(lab: Laboratory, count: int, *, most: float) -> None:
    """Kill *count* times, up to *most* seconds apart; each tenth time, pause one."""
    killer = Killer(lab.supervisor, SEED)
    while killer.count < count:
        if killer.count % 10 == 9:
            killer.pause(0.5, lab.sleep)
        else:
            killer.kill()
        lab.sleep(killer.wait(most))


def test_refunds_survive_every_named_point_and_random_kills(
    open_laboratory: Open, empty_url: str
) -> None:
    """
    Each refund is paid once, and all are final within a minute.

    New ones arrive all the time: what a dead worker had claimed waits for ten seconds,
    and the next point needs others.
    """
    lab = open_laboratory(empty_url, crash_at=POINTS)

    gateway = lab.start_gateway(Load("kills", per_second=4, concurrency=64))
    _kill_at_random(lab, _KILLS, most=0.25)
    lab.wait(lambda: len(lab.crash_points()) == len(POINTS), 120)
    lab.settle(gateway)

    lab.assert_reached(POINTS)
    lab.assert_no_violations()
    _assert_changed_traces_are_refused(lab)


def _assert_changed_traces_are_refused(lab: Laboratory) -> None:
    """Fail unless the check of the trace, changed in each way, names the rule."""
    records = [Record(each.id, each.body) for each in lab.evidence().audit]
    for mutation in MUTATIONS:
        found = check_conformance(mutation.apply(records)).violations
        rules = {each.rule for each in found}
        assert mutation.rule in rules, lab.explain(f"{mutation.name}: {rules}")


@pytest.mark.soak
@pytest.mark.parametrize("point", POINTS)
def test_refunds_survive_one_point(
    open_laboratory: Open, empty_url: str, point: str
) -> None:
    """A single death at a single point, to isolate a failure."""
    lab = open_laboratory(empty_url, crash_at=[point])

    gateway = lab.start_gateway(Load("point", concurrency=4))
    lab.wait(lambda: point in lab.crash_points(), 60)
    lab.settle(gateway)

    lab.assert_reached([point])
    lab.assert_no_violations()


@pytest.mark.soak
@pytest.mark.parametrize("kind", [None, "arc", "tempo"])
def test_refunds_survive_many_kills(
    open_laboratory: Open, empty_url: str, kind: str | None
) -> None:
    """Two thousand kills: each refund is paid once, also if the token pays for gas."""
    lab = open_laboratory(empty_url, kind=kind)

    gateway = lab.start_gateway(Load("kills"))
    _kill_at_random(lab, 2_000, most=0.6)
    lab.settle(gateway)

    lab.assert_no_violations()


@pytest.mark.nodes
@pytest.mark.soak
def test_refunds_survive_kills_and_rollbacks_of_geth(
    open_laboratory: Open, empty_url: str
) -> None:
    """Forty kills, and twenty rollbacks that empty blocks replace, in blocks of 2 s."""
    lab = open_laboratory(empty_url, uses_geth=True, confirmations=_CONFIRMATIONS)
    node, dice = lab.chain.node, random.Random(SEED)
    assert isinstance(node, Geth)
    node.mine(_CONFIRMATIONS)  # What funds the wallet stays.
    lost = 0

    gateway = lab.start_gateway(Load("geth"))
    for _ in range(20):
        _kill_at_random(lab, 2, most=3)
        lost += node.reorganise(dice.randint(1, _CONFIRMATIONS - 1))
    lab.settle(gateway)

    assert lost > 0, lab.explain("no transaction left its block")
    lab.assert_no_violations()
