"""Interleaved timing: what is compared runs in turns, so that noise hits all alike."""

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version


Action = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and 95th percentile of one action, in microseconds."""

    median: float
    p95: float


def interleaved(
    actions: Mapping[str, Action], *, seconds: float
) -> Mapping[str, Timing]:
    """Run each of *actions* in turn, again and again, for *seconds* in all."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            samples[name].append((time.perf_counter() - started) * 1e6)
    return {
        name: Timing(statistics.median(taken), statistics.quantiles(taken, n=20)[-1])
        for name, taken in samples.items()
    }


def throughput(action: Action, *, threads: int, seconds: float) -> float:
    """Return how often a second *threads* threads together complete *action*."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def run(index: int) -> None:
        while time.perf_counter() < end:
            action()
            counts[index] += 1

    running = [threading.Thread(target=run, args=(i,)) for i in range(threads)]
    started = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def machine() -> str:
    """Describe the machine and the versions that the figures belong to."""
    packages = ("python-pkcs11", "boto3", "coincurve", "cryptography", "sqlalchemy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}\n{versions}"
    )
