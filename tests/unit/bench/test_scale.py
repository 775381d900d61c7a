"""The simulation of large deployments."""

import random

import pytest

from bench.scale import (
    ETHEREUM,
    ROLLUP,
    SECONDS,
    Deployment,
    _arrivals,
    describe,
    enlarge,
    measured_rate,
    peak_rate,
    simulate,
)


def test_the_smallest_capacity_limits() -> None:
    """16 pending transactions and a block in 12 s are 4,800 an hour."""
    stage, per_second = Deployment(ETHEREUM, per_machine=80.0).limit()

    assert stage == "wallets"
    assert per_second * SECONDS == 4800


def test_an_overloaded_stage_passes_its_capacity_and_queues_the_rest() -> None:
    outcome = simulate(Deployment(ETHEREUM, per_machine=80.0), 10_000)

    assert outcome.mined == pytest.approx(4800, rel=0.01)
    assert outcome.longest_queue == pytest.approx(outcome.arrived - 4800, rel=0.05)
    assert outcome.p99_seconds > 1000


def test_an_enlarged_deployment_is_limited_by_the_blocks_alone() -> None:
    small = Deployment(ROLLUP, per_machine=80.0)

    large = enlarge(small, 1111.0)

    others = {k: v for k, v in large.capacities().items() if k != "block gas"}
    assert min(others.values()) >= 1111.0
    assert large.limit()[0] == "block gas"
    assert enlarge(small, 0.1) == small


def test_the_arrivals_have_the_mean_of_the_hour_and_a_peak() -> None:
    drawn = list(_arrivals(100_000, random.Random(1)))

    assert sum(drawn) == pytest.approx(100_000, rel=0.01)
    assert sum(drawn[1800:2100]) / 300 == pytest.approx(peak_rate(100_000), rel=0.02)
    assert sum(drawn[1800:2100]) == pytest.approx(4 * sum(drawn[:300]), rel=0.05)


def test_the_measured_rate_is_that_of_one_database() -> None:
    figure = {"name": "POST /v1/refunds, 16 clients", "values": {"median": 87.0}}
    other = {"name": "refunds-sqlite", "figures": [figure | {"values": {"median": 1}}]}
    written = [
        {"name": f"{what} per refund, to its confirmation", "values": {"median": 9.0}}
        for what in ("writing transactions", "WAL")
    ]
    scenario = {"name": "refunds-postgresql", "figures": [figure, *written]}

    both = {"scenarios": [other, scenario]}
    assert (measured_rate(both), measured_rate(both, "sqlite")) == (87.0, 1.0)
    assert "at most 3,600 an hour" in describe(both)
    assert "2,500 commits and 2.44 MB of WAL a second" in describe(both)
    with pytest.raises(ValueError, match="make bench"):
        measured_rate({"scenarios": [other]})
