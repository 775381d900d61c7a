"""
Calls of a cloud's key service, within a deadline, and without overloading it.

Each attempt needs a turn of the rate limit, below the service's quota, and a slot of
the adaptive limit.  Retries end with the deadline, the number of attempts or the budget
of retries.  While the service answers no call, calls fail at once.
"""

import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from statistics import median
from threading import Event, Lock
from typing import Any, Generic, NamedTuple, TypeVar

from backends.circuit_breaker import CircuitBreaker
from signer.errors import BackendError, BackendThrottledError, BackendUnavailableError


_LOWEST = 8
_WINDOW = 16
"""The fewest calls that are judged together."""

_TOLERANCE = 2.0
"""How many times the latency without queueing is still no congestion."""

_DECREASE = 0.8
_FAILED_SHARE = 0.1
"""The share of failed calls in a window from which on KMS asks for fewer."""


class AdaptiveLimit:
    """
    A limit between 8 (or *highest*, if that is less) and *highest*.

    Calls are judged in windows of at least 16, and of as many as the limit.  The median
    of a window at the lowest limit is the latency without queueing, and so is a lower
    one later.  A median above twice that, or failures of a tenth, lower the limit by a
    fifth.  Otherwise, a window that used half of the limit raises it by its root.

    More calls at once sign more, until they only wait, which latency shows, so no
    setting has to know it (TCP Vegas, Netflix's concurrency-limits).

    A device that becomes slower for other reasons lowers the limit until the next
    window at the lowest limit measures it anew.
    """

    def __init__(self, highest: int) -> None:
        self._highest = float(highest)
        self._lowest = min(float(_LOWEST), self._highest)
        self._limit = self._lowest
        self._baseline = math.inf
        self._latencies: list[float] = []
        self._failures = 0
        self._most = 0

    @property
    def value(self) -> int:
        """How many calls may be in flight."""
        return int(self._limit)

    def record(self, seconds: float | None, in_flight: int) -> None:
        """
        Record a call that signed within *seconds*, or failed (None).

        *in_flight* counts the calls at its end, including this one.
        """
        self._most = max(self._most, in_flight)
        if seconds is None:
            self._failures += 1
        else:
            self._latencies.append(seconds)
        if self._failures + len(self._latencies) >= max(_WINDOW, self.value):
            self._judge()
            self._latencies.clear()
            self._failures = self._most = 0

    def _judge(self) -> None:
        count = self._failures + len(self._latencies)
        latency = median(self._latencies) if self._latencies else math.inf
        if self._limit == self._lowest and self._latencies:
            self._baseline = latency
        self._baseline = min(self._baseline, latency)
        has_failed = self._failures >= count * _FAILED_SHARE
        if has_failed or latency > self._baseline * _TOLERANCE:
            self._limit = max(self._lowest, self._limit * _DECREASE)
        elif self._most * 2 >= self._limit:
            self._limit = min(self._highest, self._limit + math.sqrt(self._limit))


class AdaptiveSemaphore:
    """
    Admits as many calls at once as an ``AdaptiveLimit``, in the order of their arrival.

    Threads share an instance.
    """

    def __init__(self, highest: int) -> None:
        self._limit = AdaptiveLimit(highest)
        self._lock = Lock()
        self._in_flight = 0
        self._waiting: deque[Event] = deque()

    @property
    def limit(self) -> int:
        """How many calls are admitted at once, at the moment."""
        return self._limit.value

    def acquire(self, patience: float) -> bool:
        """Wait up to *patience* seconds for a slot, and return whether there is one."""
        turn = Event()
        with self._lock:
            self._waiting.append(turn)
            self._admit()
        if turn.wait(max(0.0, patience)):
            return True
        with self._lock:
            if turn.is_set():
                return True
            self._waiting.remove(turn)
        return False

    def release(self, seconds: float | None) -> None:
        """Return a slot after a call that signed in *seconds*, or failed (None)."""
        with self._lock:
            self._limit.record(seconds, self._in_flight)
            self._in_flight -= 1
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._in_flight < self._limit.value:
            self._waiting.popleft().set()
            self._in_flight += 1


_BURST_SECONDS = 0.05
"""How long unused turns are kept; a service may count within any second."""

_WINDOW_SECONDS = 0.1
"""How long answers are counted: longer than one usually takes."""

_STRONGEST_DECREASE = 0.5
_LOWEST_SHARE = 0.2
_RECOVERY = 0.05
"""The share of the highest rate by which the rate grows in a second."""


class TokenBucket:
    """
    Gives turns, at most *highest* in a second; 0 gives them without limit.

    Turns are given in the order in which they were asked for.  After a quiet time, the
    unused turns of 50 ms are available at once.  Every 0.1 s, the share of throttled
    requests lowers the rate, by a half at most, and to a fifth of *highest* at least.
    The rate recovers by 5 % of *highest* in a second.  Threads share an instance.

    Turns follow GCRA (ITU-T I.371), and the rate shrinks as in DCTCP (RFC 8257).
    """

    def __init__(
        self, highest: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._highest = self._rate = highest
        self._timer = timer
        self._updated = self._judged = timer()
        self._answers = self._throttled = 0
        self._next = timer()  # When the turn after the last given one is due.
        self._lock = Lock()

    def reserve(self, patience: float) -> float | None:
        """
        Return in how many seconds the caller's turn is.

        If that is more than *patience*, no turn is reserved, and this returns None.
        """
        if not self._highest:
            return 0.0
        with self._lock:
            now = self._recover()
            due = max(self._next, now - _BURST_SECONDS)
            wait = due - now
            if wait > patience:
                return None
            self._next = due + 1 / self._rate
        return max(0.0, wait)

    def record(self, *, is_throttled: bool) -> None:
        """Record an answer: whether the service refused because of its quota."""
        with self._lock:
            self._answers += 1
            self._throttled += is_throttled
            now = self._recover()
            if now - self._judged < _WINDOW_SECONDS:
                return
            kept = max(_STRONGEST_DECREASE, 1 - self._throttled / self._answers)
            self._rate = max(self._highest * _LOWEST_SHARE, self._rate * kept)
            self._judged = now
            self._answers = self._throttled = 0

    def _recover(self) -> float:
        now = self._timer()
        grown = (now - self._updated) * self._highest * _RECOVERY
        self._rate = min(self._highest, self._rate + grown)
        self._updated = now
        return now


T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

_RETRY_COST, _SUCCESS_GAIN = 5, 3
"""Of a budget of 500: at most 100 retries, and 0.6 more for each success."""


class CallLimits(NamedTuple):
    """
    What one client may do.

    A call may begin at most ``attempts`` attempts, within ``patience`` seconds, of
    ``attempt`` seconds at most.  At most ``concurrency`` are in flight, and
    ``per_second`` begin in a second; 0 is any number.
    """

    attempts: int
    attempt: float
    patience: float
    concurrency: int
    per_second: float = 0


class Turn(NamedTuple):
    """An attempt, counted from 1, of a call whose attempts begin before ``latest``."""

    number: int
    latest: float


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """The result of a call, and how many requests it took."""

    value: T
    attempts: int
    throttled: int


class AttemptError(Exception):
    """
    An attempt has no result, because of *error*.

    It is repeated if it *may_repeat*, after *pause* seconds at least.  *is_late*: there
    was no answer in time.  *is_answer*: the service answered.
    """

    def __init__(
        self,
        error: BackendError,
        *,
        may_repeat: bool,
        pause: float = 0.0,
        is_late: bool = False,
        is_answer: bool = True,
    ) -> None:
        super().__init__()
        self.error = error
        self.may_repeat = may_repeat
        self.pause = pause
        self.is_late = is_late
        self.is_answer = is_answer


@dataclass(eq=False, repr=False)
class KMSCalls:
    """
    Calls *service*; threads share an instance.

    *too_many* is the message if a call gets no turn.  *budget* is botocore's
    ``RetryQuota``, or None.
    """

    service: str
    too_many: str
    limits: CallLimits
    budget: Any = None
    _: KW_ONLY
    timer: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._turns = TokenBucket(self.limits.per_second, self.timer)
        self._slots = AdaptiveSemaphore(self.limits.concurrency)
        self._breaker = CircuitBreaker(self.limits.attempt, self.timer)
        self._answered = -math.inf

    @property
    def concurrency(self) -> int:
        return self._slots.limit

    def call(self, attempt: Callable[[Turn], T]) -> Reply[T]:
        """
        Return the result of *attempt*, which raises ``AttemptError``.

        Raises:
            BackendThrottledError: The service's or this process's rate is exceeded.
            BackendUnavailableError: The service does not answer.
            BackendError: The error of the last attempt.
        """
        if not self._breaker.admits():
            problem = f"{self.service} does not answer at present"
            raise _unsent(BackendUnavailableError(problem))
        latest = self.timer() + self.limits.patience
        attempts = throttled = 0
        error: BackendError = _unsent(BackendThrottledError(self.too_many))
        while self._wait_for_turn(latest):
            attempts += 1
            try:
                value = self._send(attempt, Turn(attempts, latest))
            except AttemptError as e:
                failed = e
            else:
                if self.budget is not None:
                    self.budget.release(_SUCCESS_GAIN)
                self._turns.record(is_throttled=False)
                return Reply(value, attempts, throttled)
            error = failed.error
            is_throttled = isinstance(error, BackendThrottledError)
            throttled += is_throttled
            error.attempts, error.throttled = attempts, throttled
            self._turns.record(is_throttled=is_throttled)
            if not self._may_repeat(failed, latest):
                break
        raise error

    def _wait_for_turn(self, latest: float) -> bool:
        """Wait for a turn and a slot, and return whether both came before *latest*."""
        wait = self._turns.reserve(latest - self.timer())
        if wait is None:
            return False
        if wait:
            self.sleep(wait)
        return self._slots.acquire(latest - self.timer())

    def _send(self, attempt: Callable[[Turn], T], turn: Turn) -> T:
        began = self.timer()
        seconds = None
        try:
            value = attempt(turn)
            seconds = self.timer() - began
        except AttemptError as e:
            # If other calls were answered meanwhile, only this connection hangs.
            if e.is_late and self._answered < began:
                self._breaker.record_timeout()
            elif e.is_answer and not e.is_late:
                self._record_answer()
            raise
        finally:
            self._slots.release(seconds)
        self._record_answer()
        return value

    def _record_answer(self) -> None:
        self._answered = self.timer()
        self._breaker.record_answer()

    def _may_repeat(self, failed: AttemptError, latest: float) -> bool:
        """Pause and return True, if another attempt is allowed and fits."""
        attempts = failed.error.attempts
        if not failed.may_repeat or attempts >= self.limits.attempts:
            return False
        longest = min(_FIRST_PAUSE * 2**attempts, _LONGEST_PAUSE)
        drawn = random.uniform(0, longest)  # noqa: S311  Not a secret.
        pause = max(drawn, failed.pause)
        if self.timer() + pause > latest:
            return False
        if self.budget is not None and not self.budget.acquire(_RETRY_COST):
            return False
        self.sleep(pause)
        return True


def _unsent(error: BackendError) -> BackendError:
    error.attempts = 0
    return error
