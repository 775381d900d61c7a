"""
Runs simulated processes in one thread, by a fake clock and one seed.

A process is a greenlet.  It pauses before and after every call to a port, and the
scheduler continues the process whose pause ends first.  The seed decides the lengths of
the pauses, and so the order of all events.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import NoReturn

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped] # No stubs.

from signer.errors import HotWalletError
from tests.simulation.trace import Trace


EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

RESTARTS_WITHIN = 8.0
"""The most seconds until a dead process is restarted."""


class Killed(BaseException):
    """Ends a process; no code may catch it."""


class Scheduler:
    """
    Runs actions when they are due; ``now`` is in simulated seconds.

    ``errors`` has a sentence for each process that died of an unexpected exception.
    """

    def __init__(self, random: Random, trace: Trace) -> None:
        self.random = random
        self.trace = trace
        self.now = 0.0
        self.errors: list[str] = []
        self._main = getcurrent()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Run *action* after *seconds*."""
        heappush(self._queue, (self.now + seconds, next(self._order), action))

    def clock(self) -> datetime:
        """Return the time, which the clocks of some hosts miss."""
        return EPOCH + timedelta(seconds=self.now)

    def run(self, until: float) -> None:
        """Run everything that is due up to *until*."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heappop(self._queue)
            action()
        self.now = until

    def log(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.add(self.now, who, what)

    def wait(self) -> None:
        """Continue other processes; only a process may call this."""
        self._main.switch()


class Process:
    """
    A process that is restarted whenever it dies, without its memory.

    ``skew`` is the error of its host's clock in seconds.
    """

    def __init__(
        self, scheduler: Scheduler, name: str, main: Callable[["Process"], None]
    ) -> None:
        self.scheduler = scheduler
        self.name = name
        self.skew = 0.0
        self._main = main
        self._generation = 0
        self._is_dying = False
        self._is_down = False
        self._greenlet: greenlet | None = None

    def start(self) -> None:
        """Start the process unless it runs, or is down."""
        if self._greenlet is None and not self._is_down:
            self.scheduler.log(self.name, "starts")
            self._greenlet = greenlet(self._run)
            self._greenlet.switch()

    def clock(self) -> datetime:
        """Return the time of the host's clock."""
        return self.scheduler.clock() + timedelta(seconds=self.skew)

    def timer(self) -> float:
        """Return monotonic seconds, as ``time.monotonic`` does."""
        return self.scheduler.now

    def pause(self, seconds: float) -> None:
        """Continue other processes for *seconds* at least."""
        if self._is_dying:
            raise Killed  # A dead process runs no cleanup either.
        generation = self._generation
        self.scheduler.after(seconds, lambda: self._resume(generation))
        self.scheduler.wait()

    def die(self) -> NoReturn:
        """Kill this process from inside."""
        self._is_dying = True
        raise Killed

    def kill(self) -> None:
        """Kill this process from outside."""
        if self._greenlet is not None:
            self._is_dying = True
            self._greenlet.throw(Killed)

    def shut_down(self) -> None:
        """Kill this process, and do not start it again before ``boot``."""
        self._is_down = True
        self.kill()

    def boot(self) -> None:
        """Start this process a few seconds from now."""
        self._is_down = False
        self._restart()

    def _resume(self, generation: int) -> None:
        if generation == self._generation and self._greenlet is not None:
            self._greenlet.switch()

    def _run(self) -> None:
        try:
            self._main(self)
        except Killed:
            self.scheduler.log(self.name, "is dead")
        except HotWalletError as e:
            self.scheduler.log(self.name, f"ends: {e.code}")
        except Exception as e:  # noqa: BLE001  Every one is a finding.
            self.scheduler.errors.append(f"{self.name} died of {e!r}")
        self._generation += 1
        self._is_dying = False
        self._greenlet = None
        if not self._is_down:
            self._restart()

    def _restart(self) -> None:
        seconds = self.scheduler.random.uniform(0.1, RESTARTS_WITHIN)
        self.scheduler.after(seconds, self.start)
