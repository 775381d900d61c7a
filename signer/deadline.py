"""
A bound on the wait for work that may know no end of its own.

The work goes on in a thread that nobody waits for any more: Python cannot end it.
How many such threads there can be is bounded, so that a device which hangs costs a
few threads, and not one for each time that somebody asked.
"""

import contextvars
from collections import Counter
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Generic, TypeVar

from signer.errors import BackendUnavailableError, HotWalletError


T = TypeVar("T")

LATE = "there was no answer in time"


class Pending(Generic[T]):
    """Work in a thread of its own, or work that was refused one."""

    is_begun = True

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done = Event()
        self._value: T
        self._error: BaseException | None = None

    def wait(self, seconds: float) -> bool:
        """Say whether the work is done, after *seconds* at most."""
        return self._done.wait(max(0.0, seconds))

    def result(self) -> T:
        """Return what the work returned, or raise what it raised; it must be done."""
        if self._error is not None:
            raise self._error
        return self._value

    def perform(self) -> None:
        """Do the work, and keep what it raises for whoever asks for the result."""
        try:
            self._value = self._work()
        except BaseException as e:  # noqa: BLE001  Another thread's to raise.
            self._error = e

    def finish(self) -> None:
        """Wake whoever waits."""
        self._done.set()


class Refused(Pending[T]):
    """Work that is not begun, since too much of its kind never ended."""

    is_begun = False

    def wait(self, seconds: float) -> bool:
        """Say at once that it is not done."""
        return False


class Deadlines:
    """
    Starts work, and stops waiting for it when it is late.

    Threads share one; a process makes its own, after the fork.
    """

    def __init__(self, at_once: int = 1, in_all: int | None = None) -> None:
        """
        Let *at_once* pieces of work with one name be under way, and no more.

        Where the names are the callers', *in_all* bounds all of them together.
        """
        self._at_once = at_once
        self._in_all = in_all
        self._running: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def start(
        self, work: Callable[[], T], *, name: str, subject: str = ""
    ) -> Pending[T]:
        """
        Begin *work* in a thread, with the caller's context, and return at once.

        While as much work called *name* is under way as may be, on this *subject*, it
        is not begun.  Threads are called by the name alone: a subject may be a secret.
        """
        place = (name, subject)
        with self._lock:
            if not self._has_room(place):
                return Refused(work)
            self._running[place] += 1
        pending = Pending(work)
        context = contextvars.copy_context()
        thread = Thread(
            target=context.run,
            args=(self._run, pending, place),
            name=f"deadline-{name}",
            daemon=True,  # A process ends, whatever hangs in it.
        )
        try:
            thread.start()
        except RuntimeError:  # The system has no thread to give.
            self._ended(place)
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
        Return what *work* returns, if it does so within *seconds*.

        Raises:
            BackendUnavailableError: It does not, or what was begun before it hangs;
                or what *late* makes of that message instead.
        """
        pending = self.start(work, name=name)
        if not pending.wait(seconds):
            raise late(LATE)
        return pending.result()

    def _has_room(self, place: tuple[str, str]) -> bool:
        if self._in_all is not None and self._running.total() >= self._in_all:
            return False
        return self._running[place] < self._at_once

    def _run(self, pending: Pending[T], place: tuple[str, str]) -> None:
        pending.perform()
        # Before anybody sees that it is done: the next one may begin at once.
        self._ended(place)
        pending.finish()

    def _ended(self, place: tuple[str, str]) -> None:
        with self._lock:
            self._running[place] -= 1
            if not self._running[place]:
                del self._running[place]  # Subjects are as many as callers make up.
