"""
Calls of a cloud's key service, within a deadline, and without overloading it.

Each attempt needs a turn of the rate limit, below the service's quota, and a slot of
the adaptive limit.  Retries end with the deadline, the number of attempts or the budget
of retries.  While the service answers no call, calls fail at once.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from backends.circuit_breaker import CircuitBreaker
from backends.concurrency import AdaptiveSemaphore
from backends.rate_limit import TokenBucket
from signer.errors import BackendError, BackendThrottledError, BackendUnavailableError


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


class KMSCalls:
    """
    Calls *service*; threads share an instance.

    *too_many* is the message if a call gets no turn.  *budget* is botocore's
    ``RetryQuota``, or None.
    """

    def __init__(
        self,
        service: str,
        too_many: str,
        limits: CallLimits,
        budget: Any = None,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._service = service
        self._too_many = too_many
        self._limits = limits
        self._budget = budget
        self._timer = timer
        self._sleep = sleep
        self._turns = TokenBucket(limits.per_second, timer)
        self._slots = AdaptiveSemaphore(limits.concurrency)
        self._breaker = CircuitBreaker(limits.attempt, timer)
        self._answered = -math.inf

    @property
    def concurrency(self) -> int:
        """How many calls are sent at once, at the moment."""
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
            problem = f"{self._service} does not answer at present"
            raise _unsent(BackendUnavailableError(problem))
        latest = self._timer() + self._limits.patience
        attempts = throttled = 0
        error: BackendError = _unsent(BackendThrottledError(self._too_many))
        while self._wait_for_turn(latest):
            attempts += 1
            try:
                value = self._send(attempt, Turn(attempts, latest))
            except AttemptError as e:
                failed = e
            else:
                if self._budget is not None:
                    self._budget.release(_SUCCESS_GAIN)
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
        wait = self._turns.reserve(latest - self._timer())
        if wait is None:
            return False
        if wait:
            self._sleep(wait)
        return self._slots.acquire(latest - self._timer())

    def _send(self, attempt: Callable[[Turn], T], turn: Turn) -> T:
        began = self._timer()
        seconds = None
        try:
            value = attempt(turn)
            seconds = self._timer() - began
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
        self._answered = self._timer()
        self._breaker.record_answer()

    def _may_repeat(self, failed: AttemptError, latest: float) -> bool:
        """Pause and return True, if another attempt is allowed and fits."""
        attempts = failed.error.attempts
        if not failed.may_repeat or attempts >= self._limits.attempts:
            return False
        longest = min(_FIRST_PAUSE * 2**attempts, _LONGEST_PAUSE)
        drawn = random.uniform(0, longest)  # noqa: S311  Not a secret.
        pause = max(drawn, failed.pause)
        if self._timer() + pause > latest:
            return False
        if self._budget is not None and not self._budget.acquire(_RETRY_COST):
            return False
        self._sleep(pause)
        return True


def _unsent(error: BackendError) -> BackendError:
    error.attempts = 0
    return error
