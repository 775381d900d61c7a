"""PostgreSQL as a ledger: patient, and no longer than told."""

import time
from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from signer.errors import ConfigurationError, Refusal


RESTED_SECONDS = 1.0
"""A connection that rested for longer is tried before it is used."""


def postgresql_engine(url: URL, *, pool_size: int, timeout: float) -> Engine:
    """
    Return an engine for the server at *url*; *timeout* is in seconds.

    The server stops statements after *timeout*, and waits for locks a little
    less, so that the reason can be told.  The network gives up by itself.
    """
    engine = _engine(
        url,
        timeout,
        isolation_level="AUTOCOMMIT",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
    )
    event.listen(engine, "checkin", _rest)
    event.listen(engine, "checkout", _try_rested(engine))
    return engine


def postgresql_migration_engine(url: URL, *, timeout: float) -> Engine:
    """Return an engine that opens one connection, and waits *timeout* for locks."""
    return _engine(url, timeout, poolclass=NullPool)


def _engine(url: URL, timeout: float, **settings: Any) -> Engine:
    """
    Return an engine with what all of ours have in common.

    Raises:
        ConfigurationError: ``database-misconfigured``, without the driver.
    """
    try:
        return create_engine(
            url,
            connect_args=_patience(url, timeout),
            use_native_hstore=False,  # Saves a look-up on every connection.
            hide_parameters=True,
            **settings,
        )
    except ModuleNotFoundError:
        pass
    raise ConfigurationError(
        Refusal(
            "database-misconfigured",
            "PostgreSQL needs its driver: install `hotwallet[postgresql]`",
        )
    )


def _patience(url: URL, timeout: float) -> dict[str, Any]:
    """Return libpq's parameters; what the URL says itself wins."""
    milliseconds = int(timeout * 1000)
    settings = {
        "default_transaction_isolation": r"read\ committed",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds * 4 // 5,
        "idle_in_transaction_session_timeout": milliseconds * 2,
        "timezone": "UTC",
    }
    ours = [f"-c {name}={value}" for name, value in settings.items()]
    theirs = url.query.get("options", ())
    given = (theirs,) if isinstance(theirs, str) else theirs
    defaults = {
        "application_name": "hotwallet",
        "connect_timeout": max(2, int(timeout)),  # libpq takes no less than 2.
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    chosen = {name: value for name, value in defaults.items() if name not in url.query}
    return {**chosen, "options": " ".join([*ours, *given])}


def _rest(connection: Any, entry: ConnectionPoolEntry) -> None:
    entry.info["rests_since"] = time.monotonic()


def _try_rested(engine: Engine) -> Any:
    """
    Return the listener that finds out whether a rested connection still lives.

    SQLAlchemy's own ``pool_pre_ping`` costs a round trip each time, which is as
    much as a whole method of the store costs.
    """

    def try_rested(
        connection: Any, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        now = time.monotonic()
        if now - entry.info.get("rests_since", now) < RESTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            lost = DisconnectionError()
        else:
            return
        raise lost  # The pool opens another one.

    return try_rested
