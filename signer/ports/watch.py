"""How a process learns at once that another process has changed refunds."""

from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol


class Topic(StrEnum):
    """What a process waits for."""

    ACCEPTED = "accepted"
    """A refund was accepted, or a caller asked to cancel one: work for a worker."""

    MOVED = "moved"
    """A refund changed its status, or why it waits: news for its caller."""


class Watch(Protocol):
    """
    Waits for changes that other connections make.

    One thread uses a watch at a time; many threads may each have their own.
    """

    def wait(self, seconds: float) -> bool:
        """
        Return True as soon as refunds may have changed, or False after *seconds*.

        Changes since the last call count, or since the watch began.  It may return True
        without a change, but it misses none: a caller that reads, waits and reads again
        sees every change.

        It raises no error.  While the database does not answer, it returns True after
        0.2 seconds at most, so that the caller reads and gets the error.
        """


class Watches(Protocol):
    """Begins watches."""

    def watch(self, topic: Topic) -> AbstractContextManager[Watch]:
        """
        Watch for changes of *topic*, and perhaps also others, until the context ends.

        It is cheap, and does not wait for the database.
        """
