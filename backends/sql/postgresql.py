"""Engines for PostgreSQL, with a limit on every wait."""

import time
from collections.abc import Generator
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from backends.circuit_breaker import CircuitBreaker
from backends.sql.compiled_statements import CompiledStatements
from signer.errors import ConfigurationError, Refusal


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
