"""How often a second an action completes, in one thread or several."""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.harness import Values, Work


Action = Callable[[], object]


def rate(name: str, action: Action, threads: int = 1) -> Work:
    """Return the work that measures how often a second *threads* complete *action*."""

    def work(seconds: float) -> Values:
        return {name: throughput(action, threads, seconds)}

    return work


@contextlib.contextmanager
def durable_page(path: Path) -> Iterator[Action]:
    """Yield what appends 4 KiB to the file *path* and waits until the disk has them."""
    page = b"x" * 4096
    with path.open("wb", buffering=0) as file:

        def write() -> None:
            file.write(page)
            os.fsync(file.fileno())

        yield write


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
