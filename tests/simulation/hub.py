"""
One thread, many processes: who goes on when, by a fake clock and one seed.

A simulated process is a greenlet.  It runs until it pauses, which it does before and
after every call to the outside, and the hub goes on with whoever wakes up first.
Delays are drawn from the seed, and so is the order of all that happens.
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
"""The most seconds until a supervisor starts a dead process anew."""


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


class Hub:
    """
    Does what is due, one thing after the other; ``now`` is in simulated seconds.

    ``broken`` are sentences about what a process must not do, and did.
    """

    def __init__(self, random: Random, trace: Trace) -> None:
        self.random = random
        self.trace = trace
        self.now = 0.0
        self.broken: list[str] = []
        self._main = getcurrent()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do *action* that much later."""
        heappush(self._queue, (self.now + seconds, next(self._order), action))

    def run(self, until: float) -> None:
        """Do everything that is due up to *until*."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heappop(self._queue)
            action()
        self.now = until

    def tell(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.add(self.now, who, what)

    def wait(self) -> None:
        """Let the others go on; only a process's greenlet may."""
        self._main.switch()


class Process:
    """
    A process that is started again whenever it dies, with nothing in its memory.

    ``skew`` is by how many seconds its host's clock is wrong.
    """

    def __init__(self, hub: Hub, name: str, main: Callable[["Process"], None]) -> None:
        self.hub = hub
        self.name = name
        self.skew = 0.0
        self._main = main
        self._life = 0
        self._is_dying = False
        self._greenlet: greenlet | None = None

    def start(self) -> None:
        """Begin a new life, unless it lives."""
        if self._greenlet is None:
            self.hub.tell(self.name, "starts")
            self._greenlet = greenlet(self._live)
            self._greenlet.switch()

    def clock(self) -> datetime:
        """Return the present, as far as this host knows."""
        return EPOCH + timedelta(seconds=self.hub.now + self.skew)

    def timer(self) -> float:
        """Return seconds that nobody sets, as ``time.monotonic`` does."""
        return self.hub.now

    def pause(self, seconds: float) -> None:
        """Let the others go on, for that long at least."""
        if self._is_dying:
            raise Killed  # Nor does a dead process clean up.
        life = self._life
        self.hub.after(seconds, lambda: self._resume(life))
        self.hub.wait()

    def die(self) -> NoReturn:
        """End this life, from inside."""
        self._is_dying = True
        raise Killed

    def kill(self) -> None:
        """End this life where it stands, from outside."""
        if self._greenlet is not None:
            self._is_dying = True
            self._greenlet.throw(Killed)

    def _resume(self, life: int) -> None:
        if life == self._life and self._greenlet is not None:
            self._greenlet.switch()

    def _live(self) -> None:
        try:
            self._main(self)
        except Killed:
            self.hub.tell(self.name, "is dead")
        except HotWalletError as e:
            self.hub.tell(self.name, f"gives up: {e.code}")
        except Exception as e:  # noqa: BLE001 - whatever it is, it is a finding.
            self.hub.broken.append(f"{self.name} died of {e!r}")
        self._life += 1
        self._is_dying = False
        self._greenlet = None
        self.hub.after(self.hub.random.uniform(0.1, RESTARTS_WITHIN), self.start)
