"""
Watches of PostgreSQL: one connection of each process listens for notifications.

Triggers of ``refunds``, ``transactions`` and ``audit_records`` notify after each commit
(``triggers.py``).
"""

import os
import selectors
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from signer.ports.refund_store import Topic, Watch


UNHEARD_SECONDS = 0.2
"""The longest wait while no connection listens."""

_RETRY_SECONDS = 0.5

_CLOSE_SECONDS = 1.0

_NOTIFYING = (Topic.ACCEPTED, Topic.MOVED, Topic.RECORDED)

_PING_SECONDS = 5.0
"""A connection that was silent for longer is tested: it may be lost."""


class _Channel:
    """Counts the notifications of one topic."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def publish(self) -> None:
        """Wake all waiting threads."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> int:
        """Return the count once it is not *seen*, or after *seconds*."""
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, seconds)
            return self.count


class PostgreSQLWatches:
    """
    The watches of one process, and its thread that listens.

    The thread starts at the first watch.  When its connection is lost it makes another,
    and until that listens, watches return every 0.2 seconds.  Both moments count as a
    change, because notifications between them are lost.
    """

    def __init__(self, open_engine: Callable[[], sa.Engine]) -> None:
        """*open_engine* returns an engine for the thread's own connection."""
        self._open_engine = open_engine
        self._channels = {topic: _Channel() for topic in Topic}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_listening = False
        self._is_closed = False
        # A pipe, whose file descriptors wake the thread when the store is closed.
        self._close_reader = self._close_writer = -1

    @contextmanager
    def watch(self, topic: Topic) -> Iterator[Watch]:
        self._start()
        yield _PostgreSQLWatch(self._channels[topic], lambda: self._is_listening)

    def close(self) -> None:
        """End the thread, which closes its connection."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            os.close(self._close_writer)
            thread.join(_CLOSE_SECONDS)

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._close_reader, self._close_writer = os.pipe()
                self._thread = threading.Thread(
                    target=self._run, name="hotwallet-listen", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        engine = self._open_engine()
        lost = (SQLAlchemyError, engine.dialect.loaded_dbapi.Error, OSError)
        try:
            while not self._is_closed:
                try:
                    self._listen(engine)
                except lost:
                    self._wait_for_input(_RETRY_SECONDS)
        finally:
            engine.dispose()
            os.close(self._close_reader)

    def _listen(self, engine: sa.Engine) -> None:
        """Publish notifications until the store is closed or the connection is lost."""
        with engine.connect() as connection:
            connection.detach()  # From the pool: this block closes it.
            for topic in _NOTIFYING:
                connection.exec_driver_sql(f"LISTEN hotwallet_{topic}")
            self._set_listening(is_listening=True)
            try:
                self._publish_all(connection.connection.dbapi_connection)
            finally:
                self._set_listening(is_listening=False)

    def _publish_all(self, connection: Any) -> None:
        channels = {f"hotwallet_{topic}": self._channels[topic] for topic in _NOTIFYING}
        while not self._is_closed:
            if not self._wait_for_input(_PING_SECONDS, connection.fileno()):
                connection.execute("SELECT 1")  # A frozen server does not answer.
            notified = {each.channel for each in connection.notifies(timeout=0)}
            for channel in notified:
                channels[channel].publish()
            if notified - {f"hotwallet_{Topic.RECORDED}"}:
                self._channels[Topic.CHANGED].publish()

    def _wait_for_input(self, seconds: float, *sockets: int) -> bool:
        """Return True once *sockets* have input or the store is closed; else False."""
        with selectors.DefaultSelector() as selector:
            for each in (self._close_reader, *sockets):
                selector.register(each, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def _set_listening(self, *, is_listening: bool) -> None:
        self._is_listening = is_listening
        for channel in self._channels.values():
            channel.publish()


class _PostgreSQLWatch:
    """Implements ``signer.ports.Watch``."""

    def __init__(self, channel: _Channel, is_listening: Callable[[], bool]) -> None:
        self._channel = channel
        self._is_listening = is_listening
        self._seen = channel.count

    def wait(self, seconds: float) -> bool:
        is_listening = self._is_listening()
        longest = seconds if is_listening else min(seconds, UNHEARD_SECONDS)
        before, self._seen = self._seen, self._channel.wait(self._seen, longest)
        return self._seen != before or not is_listening
