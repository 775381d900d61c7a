"""PostgreSQL: engines with a limit on every wait, and NOTIFY to those that wait."""

import os
import selectors
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from backends.circuit_breaker import CircuitBreaker
from backends.sql.compiled_statements import CompiledStatements
from signer.errors import ConfigurationError, Refusal
from signer.ports.refund_store import Topic, Watch


T = TypeVar("T")

# The server's own limits act first, because their errors name the reason.
_CLIENT_SLACK_SECONDS = 0.5

PING_AFTER_IDLE_SECONDS = 1.0
"""A pooled connection that was idle for longer is pinged before it is used."""


def postgresql_engine(url: sa.URL, *, pool_size: int, timeout: float) -> sa.Engine:
    """
    Return an engine for the server at *url*; *timeout* is in seconds.

    The server cancels statements after *timeout*.  It waits for locks a little less,
    so that the error names the lock as the reason.  TCP timeouts end lost connections.
    A server that is frozen does none of this, so the client gives up on its own a
    little later, and closes the connection.  Until the server answers again, calls then
    fail at once (``CircuitBreaker``).
    """
    engine = _engine(
        url,
        timeout,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        pool_use_lifo=True,  # The one used last has its plans, and seldom needs a ping.
        max_overflow=0,
        pool_timeout=timeout,
    )
    seconds = timeout + _CLIENT_SLACK_SECONDS
    breaker = CircuitBreaker(seconds)
    connection_class = _connection_class(seconds, breaker)

    def require_admission() -> None:
        if not breaker.admits():
            raise engine.dialect.loaded_dbapi.OperationalError(
                "the server did not answer a moment ago"
            )

    def connect(_dialect: Any, _entry: Any, args: Any, kwargs: Any) -> Any:
        require_admission()
        return connection_class.connect(*args, **kwargs)

    def check_out(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        require_admission()
        _ping_if_idle(engine, connection, entry)

    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "checkin", _record_idle_start)
    sa.event.listen(engine, "checkout", check_out)
    return engine


def postgresql_migration_engine(url: sa.URL, *, timeout: float) -> sa.Engine:
    """Return an engine for one connection, which waits *timeout* seconds for locks."""
    return _engine(url, timeout, poolclass=sa.NullPool)


def _engine(url: sa.URL, timeout: float, **settings: Any) -> sa.Engine:
    """
    Return an engine with the settings that both engines share.

    Raises:
        ConfigurationError: ``database-misconfigured``: psycopg is not installed.
    """
    try:
        return sa.create_engine(
            url,
            connect_args=_connect_args(url, timeout),
            use_native_hstore=False,  # Saves a query on every new connection.
            execution_options={"compiled_cache": CompiledStatements()},
            hide_parameters=True,
            **settings,
        )
    except ModuleNotFoundError:
        pass
    raise ConfigurationError(
        Refusal(
            "database-misconfigured",
            "DATABASE_URL is a PostgreSQL database, and its driver is missing:"
            " install the psycopg package: pip install 'psycopg[binary]'",
        )
    )


def _connect_args(url: sa.URL, timeout: float) -> dict[str, Any]:
    """Return libpq's connection parameters; those in *url* take precedence."""
    milliseconds = int(timeout * 1000)
    settings = {
        "default_transaction_isolation": r"read\ committed",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds * 4 // 5,
        "idle_in_transaction_session_timeout": milliseconds * 2,
        "timezone": "UTC",
        # To plan the statements of a refund again costs more than to execute them.
        "plan_cache_mode": "force_generic_plan",
    }
    options = [f"-c {name}={value}" for name, value in settings.items()]
    in_url = url.query.get("options", ())
    options += [in_url] if isinstance(in_url, str) else in_url
    defaults = {
        "application_name": "hotwallet",
        "connect_timeout": max(2, int(timeout)),  # libpq's minimum is 2.
        # After the client's own limit, which opens the circuit breaker.
        "tcp_user_timeout": milliseconds + 1_000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    unset = {name: value for name, value in defaults.items() if name not in url.query}
    return {**unset, "options": " ".join(options)}


def _connection_class(seconds: float, breaker: CircuitBreaker) -> Any:
    """
    Return psycopg's connection, with a limit of *seconds* on each of its waits.

    It reports to *breaker* whether the server answered.
    """
    import psycopg  # noqa: PLC0415  An optional dependency.

    class LimitedConnection(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                connection = super().connect(*args, **kwargs)
            except psycopg.errors.ConnectionTimeout:
                breaker.record_timeout()
                raise
            except psycopg.Error:
                breaker.record_answer()
                raise
            breaker.record_answer()
            return connection

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                result = super().wait(_limited(gen, seconds), *args, **kwargs)
            except TimeoutError:
                breaker.record_timeout()
                self.close()  # A late response must not answer the next statement.
            except psycopg.Error:
                breaker.record_answer()
                raise
            else:
                breaker.record_answer()
                return result
            raise psycopg.OperationalError("the server stopped answering")

    return LimitedConnection


def _limited(gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """
    Yield what *gen* waits for, and return what it returns, within *seconds*.

    psycopg resumes a waiting generator at least every 0.1 seconds.

    Raises:
        TimeoutError: *gen* has not returned in time.
    """
    deadline = time.monotonic() + seconds
    try:
        state = next(gen)
        # Resume before the check: after a pause, the response may be there already.
        while True:
            ready = yield state
            state = gen.send(ready)
            if time.monotonic() >= deadline:
                break
    except StopIteration as e:
        return cast("T", e.value)
    gen.close()
    raise TimeoutError


def _record_idle_start(connection: Any, entry: ConnectionPoolEntry) -> None:
    entry.info["idle_since"] = time.monotonic()


def _ping_if_idle(
    engine: sa.Engine, connection: Any, entry: ConnectionPoolEntry
) -> None:
    """
    Ping *connection* if it was idle, and replace it if it is lost.

    SQLAlchemy's own ``pool_pre_ping`` costs a round trip on every use, which is as much
    as a whole method of the store.
    """
    now = time.monotonic()
    if now - entry.info.get("idle_since", now) < PING_AFTER_IDLE_SECONDS:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error:
        # The pool opens a new connection, now and in place of each of the idle ones.
        lost = InvalidatePoolError()
    else:
        return
    raise lost


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
    The watches of one process, and its thread that listens for notifications.

    Triggers notify after each commit (``triggers.py``).
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
