"""
Watches of a SQLite file: SQLite has no notifications, so they poll.

With inotify they poll only after the file was written, until the commit is visible.
"""

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import apsw

from backends.sql import sqlite_dbapi
from backends.sql.sqlite import BUSY_SECONDS, SQLiteFile
from signer.errors import StoreError
from signer.ports.refund_store import Topic, Watch


_MODIFY, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x80, 0x100, 0x200
_EVENT = struct.Struct("iIII")  # Watch, mask, cookie, length of the name.
_BYTES = 64 * 1024


class FileEvents:
    """
    Reports that a file, or another one whose name begins with its name, was changed.

    SQLite's log is such a file.  Changes through a memory map are not reported.
    """

    def __init__(self, path: Path) -> None:
        """
        Begin to watch the folder of *path*.

        Raises:
            OSError: The system has no inotify, or allows no more watches.
        """
        self._name = os.fsencode(path.name)
        self._file = _open(path.parent)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def wait(self, seconds: float) -> bool:
        """
        Return whether the file was changed since the last call, or is in *seconds*.

        It may return False early, after a change of another file of the folder.
        """
        if not self._poll.poll(seconds * 1000):
            return False
        with suppress(BlockingIOError):
            return self._is_named(os.read(self._file, _BYTES))
        return False

    def _is_named(self, events: bytes) -> bool:
        start = 0
        while start < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, start)
            start += _EVENT.size
            # There is no watch if events were lost.
            if watch < 0 or events[start : start + length].startswith(self._name):
                return True
            start += length
        return False


def _open(folder: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError("there is no inotify")
    file: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    changes = _MODIFY | _MOVED_TO | _CREATE | _DELETE
    if file >= 0 and libc.inotify_add_watch(file, os.fsencode(folder), changes) >= 0:
        return file
    error = OSError(ctypes.get_errno(), "inotify")
    if file >= 0:
        os.close(file)
    raise error


UNREADABLE_SECONDS = 0.2
"""The longest wait while the file cannot be read."""

# In seconds.
_PAUSE = 0.0003  # A commit waits longer for the disk.
_LONGEST_PAUSE = 0.005
_GROWTH = 1.4  # So a pause adds at most 40 % to the time that has passed.
_COMMIT_SECONDS = 0.05
"""After this time, a change that was written is visible, or takes unusually long."""

_LONGEST_WAIT = 5.0
"""How often it polls while nothing is written, in seconds."""

_IN_NO_HURRY = (Topic.CHANGED, Topic.RECORDED)

Version = tuple[int, int]
"""A number of the connection, and SQLite's ``data_version`` on that connection."""


class SQLiteWatches:
    """
    The watches of one process.

    SQLite numbers the changes that other connections make (``PRAGMA data_version``).
    One connection that never writes therefore sees those of all others.  The threads
    share it, since a poll takes microseconds.
    """

    def __init__(self, file: SQLiteFile) -> None:
        """Remember *file*; open nothing."""
        self._file = file
        self._lock = threading.Lock()
        self._connection: sqlite_dbapi.Connection | None = None
        self._opened = 0
        self._version: Version | None = None
        self._is_closed = False

    @contextmanager
    def watch(self, topic: Topic) -> Iterator[Watch]:
        """Watch for every change of the file, whatever the topic."""
        with ExitStack() as cleanup:
            events: FileEvents | None = None
            with suppress(OSError):  # Without them, it polls.
                events = cleanup.enter_context(FileEvents(self._file.path))
            pause = _COMMIT_SECONDS if topic in _IN_NO_HURRY else _PAUSE
            yield _SQLiteWatch(self.version, events, pause)

    def version(self) -> Version | None:
        """
        Return a value that is another one after each change; None if unreadable.

        If SQLite is busy, for example while it recovers the log, the previous value is
        returned.
        """
        with self._lock:
            try:
                connection = self._connected()
                [(number,)] = connection.execute("PRAGMA data_version").fetchall()
                self._version = (self._opened, number)
            except (sqlite_dbapi.Error, StoreError) as e:
                if getattr(e, "sqlite_errorcode", None) != apsw.SQLITE_BUSY:
                    self._disconnect()
            return self._version

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._disconnect()

    def _connected(self) -> sqlite_dbapi.Connection:
        if self._is_closed:
            raise StoreError("the store was closed")
        self._file.require_unmoved()  # A file that was replaced never changes again.
        if self._connection is None:
            self._connection = self._file.connect(timeout=BUSY_SECONDS)
            self._opened += 1
            # A poll that waits would delay the polls of other threads.
            self._connection.execute("PRAGMA busy_timeout = 0")
        return self._connection

    def _disconnect(self) -> None:
        self._version = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _SQLiteWatch:
    """Implements ``signer.ports.Watch``."""

    def __init__(
        self,
        version: Callable[[], Version | None],
        events: FileEvents | None,
        pause: float = _PAUSE,
    ) -> None:
        """*pause* is the shortest one between two polls, in seconds."""
        self._read = version
        self._seen = version()
        self._events = events
        self._pause = pause
        # What was written before the events began may be committed now.
        self._polls_until = time.monotonic() + _COMMIT_SECONDS
        self._was_seen = False  # A change, since the last event.

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        pause = self._pause
        self._was_written(0)  # Before the first poll, which may show that commit.
        while True:
            version = self._read()
            if version is None:
                self._seen = None
                time.sleep(max(0.0, min(seconds, UNREADABLE_SECONDS)))
                return True
            if version != self._seen:
                self._seen, self._was_seen = version, True
                return True
            now = time.monotonic()
            left = deadline - now
            if left <= 0:
                return False
            may_appear = self._polls_until - now
            if self._events is None or (may_appear > 0 and not self._was_seen):
                time.sleep(min(pause, left))
                pause = max(self._pause, min(pause * _GROWTH, _LONGEST_PAUSE))
            # Another commit may have begun before the event was read: one more poll.
            elif self._was_written(
                min(left, may_appear if may_appear > 0 else _LONGEST_WAIT)
            ):
                pause = self._pause

    def _was_written(self, seconds: float) -> bool:
        """Return whether the file was written since the last call, or in *seconds*."""
        if self._events is None or not self._events.wait(seconds):
            return False
        self._polls_until = time.monotonic() + _COMMIT_SECONDS
        self._was_seen = False
        return True
