"""
Runs work in threads and stops waiting for it after a time limit.

Python cannot end a thread, so late work goes on in the background.  The number of such
threads is bounded: a device that hangs takes a few threads, not one per request.
"""

import contextvars
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TypeVar

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
        self._idle: list[SimpleQueue[Callable[[], None]]] = []
        self._running: Counter[tuple[str, str]] = Counter()
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
        kind = (name, subject)
        with self._lock:
            is_full = self._total is not None and self._running.total() >= self._total
            if is_full or self._running[kind] >= self._per_subject:
                return _refused(pending)
            self._running[kind] += 1
        context = contextvars.copy_context()
        job = partial(context.run, self._run, work, pending, kind)
        with suppress(IndexError):
            self._idle.pop().put(job)
            return pending
        thread = Thread(
            target=self._work,
            args=(job,),
            name=f"deadline-{name}",
            daemon=True,  # A hanging thread must not keep the process alive.
        )
        try:
            thread.start()
        except RuntimeError:  # The system cannot start another thread.
            self._release(kind)
            return _refused(pending)
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
        pending = self.start(work, name=name, subject=subject)
        if not pending.wait(seconds):
            raise late(TIMEOUT_MESSAGE)
        return pending.result()

    def _work(self, job: Callable[[], None]) -> None:
        jobs = SimpleQueue[Callable[[], None]]()
        job()
        del job  # It refers to what the caller passed.
        while len(self._idle) < self._most_idle:
            self._idle.append(jobs)
            jobs.get()()

    def _run(
        self, work: Callable[[], T], pending: Pending[T], kind: tuple[str, str]
    ) -> None:
        try:
            finish = partial(pending.set_result, work())
        except BaseException as e:  # noqa: BLE001  `result` raises it.
            finish = partial(pending.set_exception, e)
        # First, so that a caller who sees the work done can start the next at once.
        self._release(kind)
        finish()

    def _release(self, kind: tuple[str, str]) -> None:
        with self._lock:
            self._running[kind] -= 1
            if not self._running[kind]:
                del self._running[kind]  # Callers may use any number of subjects.


def _refused(pending: Pending[T]) -> Pending[T]:
    pending.is_started = False
    pending.set_exception(BackendUnavailableError(TIMEOUT_MESSAGE))
    return pending
