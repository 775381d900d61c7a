"""Rounds, spread and ratios of the benchmarks."""

from collections.abc import Callable

import pytest

from bench.harness import Figure, Goal, Spread, Values, run_rounds, summarise


def _noting(order: list[str], name: str) -> Callable[[float], Values]:
    def work(seconds: float) -> Values:
        order.append(f"{name} {seconds:g}")
        return {name: seconds}

    return work


def test_rounds_are_interleaved_and_alternate() -> None:
    """After a warm-up of a quarter, each second round runs in reverse order."""
    order: list[str] = []
    works = [_noting(order, "a"), _noting(order, "b")]

    taken = run_rounds(works, rounds=2, seconds=4.0, report=lambda _: None)

    assert order == ["a 1", "b 1", "a 4", "b 4", "b 4", "a 4"]
    assert taken == [{"a": 4.0, "b": 4.0}] * 2


def test_ratios_are_paired_within_a_round() -> None:
    """The machine was ten times slower in the second round: the ratio is the same."""
    figures = [
        Figure("bare", "/s"),
        Figure("ours", "/s", (Goal("bare", at_least=0.5),)),
    ]

    _, ours = summarise(
        figures, [{"bare": 1000.0, "ours": 600.0}, {"bare": 100.0, "ours": 60.0}]
    )

    (ratio,) = ours["ratios"]
    assert ours["values"]["median"] == 330.0
    assert ratio["spread"] == Spread.of([0.6, 0.6]).document()
    assert ratio["is_met"] is True


@pytest.mark.parametrize(
    ("goal", "is_met"),
    [
        (Goal(100.0, at_most=1.0), True),
        (Goal(50.0, at_most=1.0), False),
        (Goal(50.0, at_least=1.8), True),
        (Goal(50.0, at_least=1.9), False),
        (Goal(50.0), None),
    ],
)
def test_a_goal_may_have_a_constant(goal: Goal, is_met: bool | None) -> None:
    (figure,) = summarise([Figure("p99", "ms", (goal,))], [{"p99": 90.0}])

    assert figure["ratios"][0]["is_met"] is is_met


def test_what_was_not_measured_is_left_out() -> None:
    """Neither a missing figure nor a ratio to a missing or zero baseline appears."""
    figures = [
        Figure("absent", "/s"),
        Figure("ours", "/s", (Goal("absent"), Goal("zero"))),
    ]

    (ours,) = summarise(figures, [{"ours": 1.0, "zero": 0.0}])

    assert (ours["name"], ours["ratios"]) == ("ours", [])
