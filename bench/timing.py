"""How often a second an action completes, in one thread or several."""

import itertools
import threading
import time
from collections.abc import Callable

from bench.harness import Values, Work


Action = Callable[[], object]


def rate(name: str, action: Action, threads: int = 1) -> Work:
    """Return the work that measures how often a second *threads* complete *action*."""

    def work(seconds: float) -> Values:
        return {name: throughput(action, threads, seconds)}

    return work


def throughput(action: Action, threads: int, seconds: float) -> float:
    """
    Return how often a second *threads* threads together complete *action*.

    Each completes it once at least.  An error of *action* is raised here.
    """
    counts, errors = [0] * threads, list[BaseException]()
    end = time.perf_counter() + seconds

    def run(index: int) -> None:
        try:
            for done in itertools.count(1):
                action()
                counts[index] = done
                if time.perf_counter() >= end:
                    return
        except BaseException as e:  # noqa: BLE001  It is raised in the caller's thread.
            errors.append(e)

    started = time.perf_counter()
    running = [threading.Thread(target=run, args=(i,)) for i in range(1, threads)]
    for thread in running:
        thread.start()
    run(0)
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - started)
