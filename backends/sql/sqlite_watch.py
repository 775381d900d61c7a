"""Watches of a SQLite file: SQLite has no notifications, so they poll cheaply."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

from backends.sql import sqlite_dbapi
from backends.sql.sqlite import BUSY_SECONDS, SQLiteFile
from signer.errors import StoreError
from signer.ports.refund_store import Topic, Watch


UNREADABLE_SECONDS = 0.2
"""The longest wait while the file cannot be read."""

# In seconds.
_PAUSE = 0.0001
_LONGEST_PAUSE = 0.005
_GROWTH = 1.02  # So a pause adds about 2 % to the time that has passed.

_QUIET = {Topic.ACCEPTED: 0.0, Topic.MOVED: 0.002, Topic.ANY: 0.0}
"""How long a new watch does not poll, in seconds: no worker sends a refund sooner."""

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
        """Watch for every change of the file."""
        yield _SQLiteWatch(self.version, _QUIET[topic])

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

    def __init__(self, version: Callable[[], Version | None], quiet: float) -> None:
        self._read = version
        self._seen = version()
        self._quiet = quiet

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        pause = _PAUSE
        if self._quiet:
            time.sleep(min(self._quiet, seconds))
            self._quiet = 0.0
        while True:
            version = self._read()
            if version is None:
                self._seen = None
                time.sleep(max(0.0, min(seconds, UNREADABLE_SECONDS)))
                return True
            if version != self._seen:
                self._seen = version
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)
