"""What the simulation expects to wait for an operator."""

from dataclasses import replace
from random import Random

import pytest

from tests.simulation.evidence import Place, find_waiting
from tests.simulation.plan import Plan


_RESTORED = replace(Plan.draw(Random(1)), is_restored=True, turns=("rotate",))

_PLACES: list[Place] = [
    ("queued", None, None),
    ("confirmed", "former", 0),
    ("broadcast", "former", 1),
    ("reserved", "former", 2),
    ("signed", "former", 3),
    ("broadcast", "former", 4),
    ("mined", "former", 5),
    ("broadcast", "active", 6),
]


@pytest.mark.parametrize(
    ("plan", "waiting"),
    [
        (_RESTORED, {0, 3, 4, 5}),
        (replace(_RESTORED, turns=()), {0}),
        (replace(_RESTORED, is_restored=False), {0}),
    ],
)
def test_only_what_a_given_back_nonce_holds_up_waits(
    plan: Plan, waiting: set[int]
) -> None:
    """Higher nonces of the same wallet, and nothing else that is signed."""
    assert find_waiting(plan, _PLACES) == {_PLACES[i] for i in waiting}
