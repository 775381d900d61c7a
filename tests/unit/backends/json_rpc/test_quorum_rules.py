"""The rules of a quorum of nodes."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.json_rpc.quorum import (
    agreed,
    highest_of_quorum,
    lower_median,
    quorum_size,
    reached,
    reached_block,
    upper_median,
)
from signer.ports.chain import Block


MEDIANS = (lower_median, upper_median)


@st.composite
def _pools(draw: st.DrawFn) -> tuple[int, int, int]:
    """Return the numbers of all nodes, lying nodes and failed nodes."""
    nodes = draw(st.integers(3, 9))
    quorum = quorum_size(nodes, nodes)
    liars = draw(st.integers(0, nodes - quorum))
    down = draw(st.integers(0, nodes - quorum - liars))
    return nodes, liars, down


@given(pool=_pools(), order=st.randoms(use_true_random=False))
def test_a_minority_of_liars_changes_no_fact(
    pool: tuple[int, int, int], order: Random
) -> None:
    """While honest nodes are a majority of the configured nodes, they decide."""
    nodes, liars, down = pool
    answers = ["truth"] * (nodes - liars - down) + ["lie"] * liars
    order.shuffle(answers)

    assert agreed(answers, quorum_size(nodes, len(answers))) == "truth"


@given(
    pool=_pools(),
    heads=st.lists(st.integers(0, 100), min_size=9, max_size=9),
    lie=st.integers(0, 1000),
)
def test_a_minority_of_liars_keeps_the_height_between_honest_ones(
    pool: tuple[int, int, int], heads: list[int], lie: int
) -> None:
    nodes, liars, down = pool
    honest = heads[: nodes - liars - down]

    height = reached(honest + [lie] * liars, quorum_size(nodes, nodes - down))

    assert min(honest) <= height <= max(honest)


@given(
    nodes=st.integers(1, 9),
    value=st.integers(0, 100),
    others=st.lists(st.integers(0, 100), max_size=9),
    rule=st.sampled_from([agreed, reached, highest_of_quorum, *MEDIANS]),
)
def test_a_quorum_that_agrees_decides(
    nodes: int,
    value: int,
    others: list[int],
    rule: Callable[[Sequence[int], int], int | None],
) -> None:
    """The responses that are not waited for cannot change the result."""
    quorum = quorum_size(nodes, nodes)
    responses = [value] * quorum + others[: nodes - quorum]

    assert rule(responses, quorum) == value


@pytest.mark.parametrize(
    ("nodes", "answered", "quorum"),
    [(1, 1, 1), (2, 2, 2), (2, 1, 1), (3, 3, 2), (3, 1, 2), (4, 4, 3), (5, 3, 3)],
)
def test_a_quorum_is_a_majority_of_the_configured_nodes(
    nodes: int, answered: int, quorum: int
) -> None:
    """Of one or two nodes all that answer must agree."""
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
def test_a_quorum_agrees_on_a_value(
    answers: list[str | None], quorum: int, fact: str | None
) -> None:
    """Without a quorum the result is None."""
    assert agreed(answers, quorum) == fact


def test_the_head_has_the_most_frequent_hash() -> None:
    """Among the nodes at the height that counts."""
    heads = [Block(7, "0xa"), Block(7, "0xb"), Block(7, "0xb"), Block(9, "0xc")]

    assert reached_block(heads, 3) == Block(7, "0xb")
