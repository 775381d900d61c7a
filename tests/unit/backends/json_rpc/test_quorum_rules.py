"""What several nodes must say before it counts, as pure rules."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.json_rpc.quorum_rules import (
    agreed,
    agreed_entries,
    quorum_size,
    reached,
    reached_block,
)
from signer.ports import Block


@st.composite
def _parliaments(draw: st.DrawFn) -> tuple[int, int, int]:
    """Return how many nodes there are, how many lie, and how many are dead."""
    nodes = draw(st.integers(3, 9))
    quorum = quorum_size(nodes, nodes)
    liars = draw(st.integers(0, nodes - quorum))
    dead = draw(st.integers(0, nodes - quorum - liars))
    return nodes, liars, dead


@given(parliament=_parliaments(), order=st.randoms(use_true_random=False))
def test_a_minority_of_liars_changes_no_fact(
    parliament: tuple[int, int, int], order: Random
) -> None:
    """While honest nodes are a majority of the configured, their word is the fact."""
    nodes, liars, dead = parliament
    answers = ["truth"] * (nodes - liars - dead) + ["lie"] * liars
    order.shuffle(answers)

    assert agreed(answers, quorum_size(nodes, len(answers))) == "truth"


@given(
    parliament=_parliaments(),
    heads=st.lists(st.integers(0, 100), min_size=9, max_size=9),
    lie=st.integers(0, 1000),
)
def test_a_minority_of_liars_moves_no_height_out_of_the_honest_ones(
    parliament: tuple[int, int, int], heads: list[int], lie: int
) -> None:
    """What is reached lies between what honest nodes have reached."""
    nodes, liars, dead = parliament
    honest = heads[: nodes - liars - dead]

    height = reached(honest + [lie] * liars, quorum_size(nodes, nodes - dead))

    assert min(honest) <= height <= max(honest)


@pytest.mark.parametrize(
    ("nodes", "answered", "quorum"),
    [(1, 1, 1), (2, 2, 2), (2, 1, 1), (3, 3, 2), (3, 1, 2), (4, 4, 3), (5, 3, 3)],
)
def test_a_majority_is_one_of_the_configured(
    nodes: int, answered: int, quorum: int
) -> None:
    """Three and more outvote; one or two must all say the same, if they answer."""
    assert quorum_size(nodes, answered) == quorum


@pytest.mark.parametrize(
    ("answers", "quorum", "fact"),
    [
        (["a"], 1, "a"),
        ([None], 1, None),
        (["a", None], 2, None),
        (["a", "b"], 2, None),
        (["a", None, "a"], 2, "a"),
        (["b", "a", "a"], 2, "a"),
        (["a", "b", None], 2, None),
        ([None, None, "a"], 2, None),
    ],
)
def test_a_fact_is_what_enough_nodes_say_alike(
    answers: list[str | None], quorum: int, fact: str | None
) -> None:
    """A few that know nothing yet decide nothing, nor do a few that know more."""
    assert agreed(answers, quorum) == fact


def test_each_entry_is_voted_on_by_itself() -> None:
    """A node may be right about one receipt and late with the next."""
    answers = [{"x": 1, "y": 2}, {"x": 1}, {"x": 3, "y": 2, "z": 4}]

    assert agreed_entries(answers, 2) == {"x": 1, "y": 2}


def test_the_head_has_the_hash_that_most_know() -> None:
    """Among those that stand at the height that counts."""
    heads = [Block(7, "0xa"), Block(7, "0xb"), Block(7, "0xb"), Block(9, "0xc")]

    assert reached_block(heads, 3) == Block(7, "0xb")
