"""
What limits a deployment at a given load, on paper: ``python -m bench.scale``.

A fluid simulation of one hour in steps of a second.  Refunds arrive at random (Poisson)
with a peak in the middle, and pass the processes, KMS, the wallets' places in the
mempool, and the blocks.  Each stage has a capacity per second and a queue.
``docs/explanation/performance.md`` has the sources of the constants.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.results import FILE, Document, median_of, read
from bench.table import number, plain_table


SECONDS = 3600
TRANSFER_GAS = 65_000

_OWN_SLOTS = 256

LOADS = (10_000, 1_000_000)

_MEASURED = "POST /v1/refunds, 16 clients"
_COMMITS = "writing transactions per refund, to its confirmation"
_WAL = "WAL per refund, to its confirmation"
_MANY = 1_000_000
_PEAK_SECONDS = 300
_PEAK_FACTOR = 4.0
_NORMAL_ABOVE = 50.0  # From here on a Poisson draw is close to a normal one.


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain's blocks; *gas* is what a block holds without raising the base fee."""

    name: str
    gas: int
    block_seconds: int


ETHEREUM = Chain("Ethereum", gas=30_000_000, block_seconds=12)
ROLLUP = Chain("rollup", gas=70_000_000, block_seconds=2)


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    What serves the refunds of one chain.

    ``per_machine`` is the measured rate of one machine, in refunds a second.  ``slots``
    is how many pending transactions of an address the nodes keep, and ``share`` the
    part of a block that the refunds may fill.
    """

    chain: Chain
    per_machine: float
    machines: int = 1
    wallets: int = 1
    kms_per_second: float = 1000.0
    slots: int = 16
    share: float = 0.1

    def capacities(self) -> Mapping[str, float]:
        """Return what each stage passes in a second."""
        block = self.chain.block_seconds
        return {
            "processes and database": self.machines * self.per_machine,
            "KMS quota": self.kms_per_second,
            "wallets": self.wallets * self.slots / block,
            "block gas": self.share * self.chain.gas / TRANSFER_GAS / block,
        }

    def limit(self) -> tuple[str, float]:
        """Return the stage with the smallest capacity, and the capacity."""
        return min(self.capacities().items(), key=lambda item: item[1])


def enlarge(deployment: Deployment, rate: float) -> Deployment:
    """
    Return *deployment* with the machines, wallets and KMS quota that *rate* needs.

    Its nodes keep more transactions of an address.  The block's gas is the chain's: no
    setting enlarges it.
    """
    one_wallet = deployment.slots / deployment.chain.block_seconds
    slots = deployment.slots if rate <= one_wallet else _OWN_SLOTS
    per_wallet = slots / deployment.chain.block_seconds
    return replace(
        deployment,
        slots=slots,
        machines=max(deployment.machines, math.ceil(rate / deployment.per_machine)),
        wallets=max(deployment.wallets, math.ceil(rate / per_wallet)),
        kms_per_second=max(deployment.kms_per_second, 1000 * math.ceil(rate / 1000)),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One simulated hour; the times are from acceptance to the block, in seconds."""

    arrived: int
    mined: int
    longest_queue: int
    median_seconds: int
    p99_seconds: int


def simulate(deployment: Deployment, per_hour: float, seed: int = 1) -> Outcome:
    """Return what one hour at *per_hour* refunds looks like."""
    capacities = list(deployment.capacities().values())
    *streams, gas = capacities
    block = deployment.chain.block_seconds
    queues, allowed = [0.0] * len(streams), [0.0] * len(streams)
    arrived, mined, waiting, longest = 0, 0.0, 0.0, 0.0
    arrivals: list[int] = []
    departures: list[float] = []
    drawn = _arrivals(per_hour, random.Random(seed))
    for second, count in enumerate(drawn):
        arrived += count
        flow = float(count)
        for stage, capacity in enumerate(streams):
            queues[stage] += flow
            # A slow stage passes one after several seconds.
            allowed[stage] = min(allowed[stage] + capacity, capacity + 1)
            flow = min(queues[stage], math.floor(allowed[stage]))
            queues[stage] -= flow
            allowed[stage] -= flow
        waiting += flow
        if second % block == block - 1:
            taken = min(waiting, gas * block)
            waiting -= taken
            mined += taken
        longest = max(longest, sum(queues) + waiting)
        arrivals.append(arrived)
        departures.append(mined)
    waits = sorted(_waits(arrivals, departures))
    return Outcome(arrived, int(mined), int(longest), _at(waits, 50), _at(waits, 99))


def _arrivals(per_hour: float, chance: random.Random) -> Iterator[int]:
    """Yield the arrivals of each second; the mean of the hour is *per_hour*."""
    peak = range(SECONDS // 2, SECONDS // 2 + _PEAK_SECONDS)
    highest = peak_rate(per_hour)
    for second in range(SECONDS):
        yield _poisson(highest if second in peak else highest / _PEAK_FACTOR, chance)


def peak_rate(per_hour: float) -> float:
    """Return the refunds a second in the peak of an hour with *per_hour* refunds."""
    weight = SECONDS + (_PEAK_FACTOR - 1) * _PEAK_SECONDS
    return per_hour * _PEAK_FACTOR / weight


def _poisson(mean: float, chance: random.Random) -> int:
    if mean > _NORMAL_ABOVE:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    count, product, least = 0, chance.random(), math.exp(-mean)
    while product > least:
        count += 1
        product *= chance.random()
    return count


def _waits(arrivals: Sequence[int], departures: Sequence[float]) -> Iterator[int]:
    """Yield the wait of each refund that left, first come first served."""
    left, second = 0, 0
    for when, total in enumerate(departures):
        while left < int(total):
            while arrivals[second] <= left:
                second += 1
            # All that arrived in this second and leave now have the same wait.
            together = min(int(total), arrivals[second]) - left
            yield from [when - second] * together
            left += together


def _at(ordered: Sequence[int], percent: int) -> int:
    if not ordered:
        return 0
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def rows(loads: Sequence[int], per_machine: float) -> Iterator[dict[str, Any]]:
    """Yield, for each chain and load, one small deployment and an enlarged one."""
    for chain in (ETHEREUM, ROLLUP):
        small = Deployment(chain, per_machine=per_machine)
        for per_hour in loads:
            large = enlarge(small, peak_rate(per_hour))
            for deployment in dict.fromkeys((small, large)):
                stage, limit = deployment.limit()
                outcome = simulate(deployment, per_hour)
                yield {
                    "chain": chain.name,
                    "refunds per hour": per_hour,
                    "machines": deployment.machines,
                    "wallets": deployment.wallets,
                    "pending per wallet": deployment.slots,
                    "limited by": stage,
                    "at most per hour": int(limit * SECONDS),
                    "p99, s": outcome.p99_seconds,
                }


def measured_rate(results: Document, database: str = "postgresql") -> float:
    """
    Return the refunds a second of one machine, as stored by ``make bench``.

    Raises:
        ValueError: That *database* was not measured.
    """
    return median_of(results, f"refunds-{database}", _MEASURED)


def describe(results: Document) -> str:
    """Return what ``make bench`` writes into the page; raises as ``measured_rate``."""
    per_machine = measured_rate(results)
    sqlite = measured_rate(results, "sqlite")
    commits = median_of(results, "refunds-postgresql", _COMMITS)
    wal = median_of(results, "refunds-postgresql", _WAL)
    second = _MANY / SECONDS
    return (
        f"One machine: {number(per_machine)} refunds a second on PostgreSQL, as in the"
        f" table. On SQLite, which has one, {number(sqlite)}: at most"
        f" {int(sqlite * SECONDS):,} an hour.\n\n"
        f"On PostgreSQL a refund has {number(commits)} writing transactions and"
        f" {number(wal)} KB of WAL. {_MANY:,} refunds an hour are therefore"
        f" {number(commits * second)} commits and {number(wal * second / 1024)} MB of"
        f" WAL a second.\n\n{plain_table(list(rows(LOADS, per_machine)))}"
    )


def main() -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument(
        "--per-machine",
        type=float,
        help="refunds a second of one machine; by default what `make bench` measured",
    )
    parser.add_argument(
        "--per-hour", type=int, nargs="+", default=list(LOADS), help="the loads"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    per_machine = options.per_machine or measured_rate(read(FILE) or {"scenarios": []})
    table = list(rows(options.per_hour, per_machine))
    text = json.dumps(table, indent=1) if options.json else plain_table(table)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
