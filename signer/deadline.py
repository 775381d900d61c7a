"""
Runs work in threads and stops waiting for it after a time limit.

Python cannot end a thread, so late work goes on in the background.  The number of such
threads is bounded: a device that hangs takes a few threads, not one per request.
"""

import contextvars
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Generic, TypeVar

from signer.errors import BackendUnavailableError, HotWalletError


T = TypeVar("T")

TIMEOUT_MESSAGE = "there was no answer in time"


class Pending(Generic[T]):
    """Work that runs in a thread of its own."""

    is_started = True

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done = Event()
        self._value: T
        self._error: BaseException | None = None

    def wait(self, seconds: float) -> bool:
        """Wait up to *seconds*, and return whether the work is done."""
        return self._done.wait(max(0.0, seconds))

    def result(self) -> T:
        """Return the result of the finished work, or raise its exception."""
        if self._error is not None:
            raise self._error
        return self._value

    def perform(self) -> None:
        """Do the work, and keep its result or its exception."""
        try:
            self._value = self._work()
        except BaseException as e:  # noqa: BLE001  `result` raises it.
            self._error = e

    def finish(self) -> None:
        """Wake the threads that wait for the work."""
        self._done.set()


class Refused(Pending[T]):
    """Work that was not started, because too much of its kind is unfinished."""

    is_started = False

    def wait(self, seconds: float) -> bool:
        """Return False at once."""
        return False


class Deadlines:
    """
    Starts work in threads, and bounds how much of it is unfinished.

    Instances are thread-safe.  Create them after a fork.
    """

    def __init__(self, per_subject: int = 1, total: int | None = None) -> None:
        """
        Allow up to *per_subject* unfinished pieces of work per name and subject.

        *total* bounds them for all names together; set it if callers choose subjects.
        """
        self._per_subject = per_subject
        self._total = total
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
        kind = (name, subject)
        with self._lock:
            if not self._has_room(kind):
                return Refused(work)
            self._running[kind] += 1
        pending = Pending(work)
        context = contextvars.copy_context()
        thread = Thread(
            target=context.run,
            args=(self._run, pending, kind),
            name=f"deadline-{name}",
            daemon=True,  # A hanging thread must not keep the process alive.
        )
        try:
            thread.start()
        except RuntimeError:  # The system cannot start another thread.
            self._release(kind)
            return Refused(work)
        return pending

    def within(
        self,
        seconds: float,
        work: Callable[[], T],
        *,
        name: str,
        late: Callable[[str], HotWalletError] = BackendUnavailableError,
    ) -> T:
        """
        Return the result of *work*, which must finish within *seconds*.

        Raises:
            BackendUnavailableError: The work did not finish in time, or it was not
                started because earlier work hangs.  *late*, if given, makes another
                error from the same message.
        """
        pending = self.start(work, name=name)
        if not pending.wait(seconds):
            raise late(TIMEOUT_MESSAGE)
        return pending.result()

    def _has_room(self, kind: tuple[str, str]) -> bool:
        if self._total is not None and self._running.total() >= self._total:
            return False
        return self._running[kind] < self._per_subject

    def _run(self, pending: Pending[T], kind: tuple[str, str]) -> None:
        pending.perform()
        # First, so that a caller who sees the work done can start the next at once.
        self._release(kind)
        pending.finish()

    def _release(self, kind: tuple[str, str]) -> None:
        with self._lock:
            self._running[kind] -= 1
            if not self._running[kind]:
                del self._running[kind]  # Callers may use any number of subjects.
