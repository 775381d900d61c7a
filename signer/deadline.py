"""
Runs work in threads and stops waiting for it after a time limit.

Python cannot end a thread, so late work goes on in the background.  The number of such
threads is bounded: a device that hangs takes a few threads, not one per request.
"""

import contextvars
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

from signer.errors import BackendUnavailableError, HotWalletError


T = TypeVar("T")

TIMEOUT_MESSAGE = "there was no answer in time"


class Pending(Future[T]):
    is_started = True

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds*, and return whether the work is done."""
        if self.is_started:
            with suppress(TimeoutError):
                self.exception(max(0.0, seconds))
        return self.is_started and self.done()


class _Answer(Generic[T]):
    """What ``within`` waits for.  A future takes four times as long."""

    def __init__(self) -> None:
        self._done = SimpleQueue[Callable[[], T]]()

    def set_result(self, result: T) -> None:
        self._done.put(lambda: result)

    def set_exception(self, error: BaseException) -> None:
        def fail() -> T:
            raise error

        self._done.put(fail)

    def wait(self, seconds: float) -> Callable[[], T] | None:
        """Wait up to *seconds* for what returns the result or raises the error."""
        try:
            return self._done.get(timeout=max(0.0, seconds))
        except Empty:
            return None


_Kind = tuple[str, str]

_Job = Callable[[], tuple[_Kind, Callable[[], object]]]
"""Does work; returns its name and subject, and what reports its result."""


class Deadlines:
    """
    Starts work in threads, and bounds how much of it is unfinished.

    Instances are thread-safe.  Create them after a fork.
    """

    def __init__(
        self, per_subject: int = 1, total: int | None = None, *, idle: int = 0
    ) -> None:
        """
        Allow up to *per_subject* unfinished pieces of work per name and subject.

        *total* bounds them for all names together; set it if callers choose subjects.
        Up to *idle* threads wait for more work, since a new one costs more than a
        short call.
        """
        self._per_subject = per_subject
        self._total = total
        self._most_idle = idle
        self._idle: list[SimpleQueue[_Job]] = []
        self._running = defaultdict[_Kind, int](int)
        self._lock = Lock()

    def start(
        self, work: Callable[[], T], *, name: str, subject: str = ""
    ) -> Pending[T]:
        """
        Start *work* in a thread, with the caller's context, and return at once.

        The work is not started while the allowed amount of work with this *name* and
        *subject* is unfinished.  Only the name appears in the thread's name, because a
        subject may be a secret.
        """
        pending = Pending[T]()
        if not self._begin(work, pending, (name, subject)):
            pending.is_started = False
            pending.set_exception(BackendUnavailableError(TIMEOUT_MESSAGE))
        return pending

    def within(
        self,
        seconds: float,
        work: Callable[[], T],
        *,
        name: str,
        subject: str = "",
        late: Callable[[str], HotWalletError] = BackendUnavailableError,
    ) -> T:
        """
        Return the result of *work*, which must finish within *seconds*.

        If it does not, or was not started because earlier work hangs, this raises the
        error that *late* makes of the message.
        """
        answer = _Answer[T]()
        if self._begin(work, answer, (name, subject)):
            result = answer.wait(seconds)
            if result is not None:
                return result()
        raise late(TIMEOUT_MESSAGE)

    def _begin(
        self, work: Callable[[], T], answer: Pending[T] | _Answer[T], kind: _Kind
    ) -> bool:
        """Start *work*, which sets its result in *answer*; return whether it began."""
        with self._lock:
            running = self._running
            is_full = self._total is not None and sum(running.values()) >= self._total
            if is_full or running.get(kind, 0) >= self._per_subject:
                return False
            running[kind] += 1
        context = contextvars.copy_context()
        job = partial(context.run, self._run, work, answer, kind)
        try:
            self._idle.pop().put(job)
        except IndexError:
            return self._start_thread(job, kind)
        return True

    def _start_thread(self, job: _Job, kind: _Kind) -> bool:
        thread = Thread(
            target=self._work,
            args=(job,),
            name=f"deadline-{kind[0]}",
            daemon=True,  # A hanging thread must not keep the process alive.
        )
        try:
            thread.start()
        except RuntimeError:  # The system cannot start another thread.
            with self._lock:
                self._release(kind)
            return False
        return True

    def _work(self, job: _Job) -> None:
        jobs = SimpleQueue[_Job]()
        is_kept = True
        while is_kept:
            kind, report = job()
            del job  # It refers to what the caller passed.
            # First, so that a caller who sees the work done can start the next at once,
            # and in this thread.
            with self._lock:
                self._release(kind)
                is_kept = len(self._idle) < self._most_idle
                if is_kept:
                    self._idle.append(jobs)
            report()
            del report
            if is_kept:
                job = jobs.get()

    @staticmethod
    def _run(
        work: Callable[[], T], answer: Pending[T] | _Answer[T], kind: _Kind
    ) -> tuple[_Kind, Callable[[], object]]:
        try:
            return kind, partial(answer.set_result, work())
        except BaseException as e:  # noqa: BLE001  The caller gets it.
            return kind, partial(answer.set_exception, e)

    def _release(self, kind: _Kind) -> None:
        """Make room for more work of *kind*; the caller holds the lock."""
        self._running[kind] -= 1
        if not self._running[kind]:
            del self._running[kind]  # Callers may use any number of subjects.
