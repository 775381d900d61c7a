"""What to set on two, four and sixteen cores."""

from typing import Any

import pytest

from bench.documents import PERFORMANCE, SIZES, insert
from bench.sizing import (
    CORES,
    Costs,
    describe,
    measured_costs,
    one_host,
    separate_hosts,
)
from bench.sweep import API, DATABASE, USUAL, WORKER, cpu_name, rate_name


COSTS = Costs(api=0.002, worker=0.003, database=0.002, answer_seconds=0.08)


def _results() -> dict[str, Any]:
    medians = {
        cpu_name(API): 2.0,
        cpu_name(WORKER): 3.0,
        cpu_name(DATABASE): 2.0,
        rate_name(USUAL, 16): 200.0,
    }
    figures = [
        {"name": name, "values": {"median": median}} for name, median in medians.items()
    ]
    ran = {"at": "2026-11-26T08:00:00+00:00", "commit": "0123456789ab", "load": "0.4"}
    return {"scenarios": [{"name": "sweep-postgresql", "figures": figures, **ran}]}


def test_the_costs_are_the_measured_ones() -> None:
    """16 clients that are answered 200 times a second wait 80 ms each."""
    assert measured_costs(_results()) == COSTS
    with pytest.raises(ValueError, match="sweep-postgresql was not measured"):
        measured_costs({"scenarios": []})


def test_no_core_is_used_more_than_seventy_percent() -> None:
    """A process uses one core at most, so processes are counted like cores."""
    for cores in CORES:
        row = one_host(COSTS, cores)
        rate = row["refunds a second"]
        assert rate * COSTS.whole <= 0.7 * cores
        assert rate * COSTS.api <= 0.7 * row["`WEB_CONCURRENCY`"]
        assert rate * COSTS.worker <= 0.7 * row["workers"]


def test_half_of_the_threads_are_enough_for_those_that_wait() -> None:
    row = one_host(COSTS, 16)

    threads = row["`WEB_CONCURRENCY`"] * row["`WEB_THREADS`"]
    assert threads >= 2 * row["refunds a second"] * COSTS.answer_seconds
    assert row["`WEB_THREADS`"] <= 64  # The setting's own limit.
    slow = Costs(api=0.002, worker=0.003, database=0.002, answer_seconds=9.0)
    assert one_host(slow, 16)["`WEB_THREADS`"] == 64


def test_separate_hosts_have_two_workers_at_least() -> None:
    """One worker may fail, so the second is on another host."""
    small, large = separate_hosts(COSTS, 1), separate_hosts(COSTS, 1000)

    assert small["workers: cores, and processes"] == 2
    assert large["API: cores, and processes"] == 3
    assert large["workers: cores, and processes"] == 5
    assert large["PostgreSQL: cores"] == 3
    assert large["database connections"] == 3 * 9 + 5 * 2


def test_the_page_takes_the_tables() -> None:
    page = PERFORMANCE.read_text(encoding="utf-8")

    text = describe(_results())

    assert text in insert(page, SIZES, text)
    assert "| 16 | 1,599 |" in text
