"""Engines for PostgreSQL, with a limit on every wait."""

import time
from collections.abc import Generator
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from signer.errors import ConfigurationError, Refusal


T = TypeVar("T")

# The server's own limits act first, because their errors name the reason.
_CLIENT_SLACK_SECONDS = 0.5

PING_AFTER_IDLE_SECONDS = 1.0
"""A pooled connection that was idle for longer is pinged before it is used."""


def postgresql_engine(url: URL, *, pool_size: int, timeout: float) -> Engine:
    """
    Return an engine for the server at *url*; *timeout* is in seconds.

    The server cancels statements after *timeout*.  It waits for locks a little less,
    so that the error names the lock as the reason.  TCP timeouts end lost connections.
    A server that is frozen does none of this, so the client gives up on its own a
    little later, and closes the connection.
    """
    engine = _engine(
        url,
        timeout,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
    )
    connect = _connection_class(timeout + _CLIENT_SLACK_SECONDS).connect
    event.listen(
        engine, "do_connect", lambda _dialect, _entry, args, kw: connect(*args, **kw)
    )
    event.listen(engine, "checkin", _record_idle_start)
    event.listen(engine, "checkout", _ping_idle(engine))
    return engine


def postgresql_migration_engine(url: URL, *, timeout: float) -> Engine:
    """Return an engine for one connection, which waits *timeout* seconds for locks."""
    return _engine(url, timeout, poolclass=NullPool)


def _engine(url: URL, timeout: float, **settings: Any) -> Engine:
    """
    Return an engine with the settings that both engines share.

    Raises:
        ConfigurationError: ``database-misconfigured``: psycopg is not installed.
    """
    try:
        return create_engine(
            url,
            connect_args=_connect_args(url, timeout),
            use_native_hstore=False,  # Saves a query on every new connection.
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


def _connect_args(url: URL, timeout: float) -> dict[str, Any]:
    """Return libpq's connection parameters; those in *url* take precedence."""
    milliseconds = int(timeout * 1000)
    settings = {
        "default_transaction_isolation": r"read\ committed",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds * 4 // 5,
        "idle_in_transaction_session_timeout": milliseconds * 2,
        "timezone": "UTC",
    }
    options = [f"-c {name}={value}" for name, value in settings.items()]
    in_url = url.query.get("options", ())
    options += [in_url] if isinstance(in_url, str) else in_url
    defaults = {
        "application_name": "hotwallet",
        "connect_timeout": max(2, int(timeout)),  # libpq's minimum is 2.
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    unset = {name: value for name, value in defaults.items() if name not in url.query}
    return {**unset, "options": " ".join(options)}


def _connection_class(seconds: float) -> Any:
    """Return psycopg's connection, with a limit of *seconds* on each of its waits."""
    import psycopg  # noqa: PLC0415  An optional dependency.

    class LimitedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().wait(_limited(gen, seconds), *args, **kwargs)
            except TimeoutError:
                self.close()  # A late response must not answer the next statement.
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


def _ping_idle(engine: Engine) -> Any:
    """
    Return the listener that pings an idle connection before it is used.

    SQLAlchemy's own ``pool_pre_ping`` costs a round trip on every use, which is as much
    as a whole method of the store.
    """

    def ping_idle(
        connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        now = time.monotonic()
        if now - entry.info.get("idle_since", now) < PING_AFTER_IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            lost = DisconnectionError()
        else:
            return
        raise lost  # The pool then opens a new connection.

    return ping_idle
