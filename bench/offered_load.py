"""An open loop inside this process: calls are due at a rate, and threads make them."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.arrivals import OpenLoop
from signer.errors import BackendError


@dataclass(slots=True)
class Outcome:
    """What became of the offered calls; ``waiting`` is the longest queue."""

    succeeded: int = 0
    failed: int = 0
    waiting: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)


class Offered:
    """Offers *rate* calls of *action* a second to *threads* threads."""

    def __init__(
        self, action: Callable[[], object], *, rate: float, threads: int
    ) -> None:
        self._action, self._rate, self._threads = action, rate, threads
        self._lock = threading.Lock()

    def run(self, seconds: float) -> Outcome:
        """Offer calls for *seconds*; calls that still wait then are not made."""
        start = time.monotonic()
        end, outcome = start + seconds, Outcome()
        arrivals = OpenLoop(self._rate, start, end)
        running = [
            threading.Thread(target=self._serve, args=(arrivals, end, outcome))
            for _ in range(self._threads)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        outcome.seconds = time.monotonic() - start
        return outcome

    def _serve(self, arrivals: OpenLoop, end: float, outcome: Outcome) -> None:
        while (now := time.monotonic()) < end:
            with self._lock:
                due = arrivals.take(now)
                following = arrivals.next_due()
                if due is not None:
                    queued = int((now - due) * self._rate)
                    outcome.waiting = max(outcome.waiting, queued)
            if due is not None:
                self._call(due, outcome)
            elif following is None:
                return
            else:
                time.sleep(max(0.0, following - now))

    def _call(self, due: float, outcome: Outcome) -> None:
        try:
            self._action()
        except BackendError:
            with self._lock:
                outcome.failed += 1
            return
        with self._lock:
            outcome.succeeded += 1
            outcome.latencies.append(time.monotonic() - due)


def calls_between(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Return how many requests a KMS stand-in received between two counts."""
    return after.get("requests", 0) - before.get("requests", 0)
