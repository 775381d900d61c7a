"""
What to set on two, four and sixteen cores, computed from measured CPU time.

The benchmarks ran on the cores that the results name.  Larger hosts are an
extrapolation: CPU time per refund stays, and each part may use a share of each core.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.results import Document, median_of
from bench.sweep import API, DATABASE, USUAL, WORKER, cpu_name, rate_name
from bench.table import moment, number, plain_table


CORES = (2, 4, 16)
RATES = (200, 1000)

_SCENARIO = "sweep-postgresql"
_CLIENTS = 16

# The share of a core that may be used: requests wait much longer above it.
_USED_SHARE = 0.7
_FEWEST_PROCESSES, _FEWEST_THREADS, _MOST_THREADS = 2, 16, 64
_CONNECTIONS_PER_API, _CONNECTIONS_PER_WORKER = 9, 2  # One of each listens.


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds per refund of each part, and how long an answer takes."""

    api: float
    worker: float
    database: float
    answer_seconds: float

    @property
    def whole(self) -> float:
        """The CPU seconds of all parts."""
        return self.api + self.worker + self.database


def measured_costs(results: Document) -> Costs:
    """
    Return what ``make bench`` measured on PostgreSQL.

    Raises:
        ValueError: It did not.
    """
    api, worker, database = (
        median_of(results, _SCENARIO, cpu_name(part)) / 1000
        for part in (API, WORKER, DATABASE)
    )
    rate = median_of(results, _SCENARIO, rate_name(USUAL, _CLIENTS))
    return Costs(api, worker, database, _CLIENTS / rate)  # Little's law.


def one_host(costs: Costs, cores: int) -> Mapping[str, Any]:
    """Return the settings of a host that runs API, worker and PostgreSQL."""
    rate = cores * _USED_SHARE / costs.whole
    processes = max(_FEWEST_PROCESSES, _cores_for(rate, costs.api))
    workers = _cores_for(rate, costs.worker)
    return {
        "cores": cores,
        "refunds a second": int(rate),
        "`WEB_CONCURRENCY`": processes,
        "`WEB_THREADS`": _threads(rate, processes, costs),
        "workers": workers,
        "database connections": _connections(processes, workers),
    }


def separate_hosts(costs: Costs, rate: int) -> Mapping[str, Any]:
    """Return the cores that each role needs at *rate* refunds a second."""
    processes = max(_FEWEST_PROCESSES, _cores_for(rate, costs.api))
    workers = max(2, _cores_for(rate, costs.worker))
    return {
        "refunds a second": rate,
        "API: cores, and processes": processes,
        "workers: cores, and processes": workers,
        "PostgreSQL: cores": _cores_for(rate, costs.database),
        "database connections": _connections(processes, workers),
    }


def describe(results: Document) -> str:
    """Return what ``make bench`` writes into the page; raises as ``measured_costs``."""
    costs = measured_costs(results)
    scenario = next(each for each in results["scenarios"] if each["name"] == _SCENARIO)
    measured = ", ".join(
        f"{name} {number(1000 * seconds)} ms"
        for name, seconds in (
            ("API", costs.api),
            ("worker", costs.worker),
            ("PostgreSQL", costs.database),
        )
    )
    return (
        f"Measured CPU time per refund ({moment(scenario)}): {measured}."
        " A request waited"
        f" {number(1000 * costs.answer_seconds)} ms for its transaction hash. Computed"
        " from these, for one host with API, worker and PostgreSQL:\n\n"
        f"{plain_table([one_host(costs, cores) for cores in CORES])}\n"
        "Computed, for a host or more per role:\n\n"
        f"{plain_table([separate_hosts(costs, rate) for rate in RATES])}"
    )


def _cores_for(rate: float, seconds: float) -> int:
    """Return the cores, or the processes of a core each, for *seconds* per refund."""
    return max(1, math.ceil(rate * seconds / _USED_SHARE))


def _threads(rate: float, processes: int, costs: Costs) -> int:
    """Return threads of which half may wait for a broadcast, in steps of eight."""
    waiting = rate * costs.answer_seconds / processes
    threads = 8 * math.ceil(2 * waiting / 8)
    return min(_MOST_THREADS, max(_FEWEST_THREADS, threads))


def _connections(processes: int, workers: int) -> int:
    return processes * _CONNECTIONS_PER_API + workers * _CONNECTIONS_PER_WORKER
