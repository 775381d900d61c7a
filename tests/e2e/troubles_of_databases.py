"""What befalls the ledger: a server that refuses, a disk that is full."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.troubles import Trouble, away
from tests.e2e.victim import Victim
from tests.fixtures.tenant import Tenant
from tests.support.canaries import ALL


_GOSSIP = """
CREATE FUNCTION gossip() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN RAISE EXCEPTION '{words}' USING DETAIL = '{words}', HINT = '{words}'; END $f$;
CREATE TRIGGER gossip BEFORE INSERT ON refunds EXECUTE FUNCTION gossip()
"""


def database_trouble(
    tenant: Tenant, name: str, begin: str, end: str, code: str, *, inside: bool = False
) -> Trouble:
    """Run *begin* and hang up; *inside* is for statements about what is in there."""

    @contextmanager
    def during(trouble: Trouble) -> Iterator[None]:
        where = tenant.database if inside else "postgres"
        tenant.do(begin, where)
        tenant.hang_up()
        try:
            yield
        finally:
            tenant.do(end, where)
            tenant.hang_up()  # What was connected meanwhile keeps its settings.

    return Trouble(f"PostgreSQL: {name}", code, during)


def database_troubles(tenant: Tenant) -> Iterator[Trouble]:
    """Yield what befalls PostgreSQL; each speaks of user, database and tables."""

    @contextmanager
    def crash(trouble: Trouble) -> Iterator[None]:
        tenant.server.crash()
        try:
            yield
        finally:
            tenant.server.__enter__()

    @contextmanager
    def password(trouble: Trouble) -> Iterator[None]:
        tenant.give("another")
        tenant.hang_up()
        try:
            yield
        finally:
            tenant.give(tenant.password)

    gone = "store-unavailable"
    # Braces are names here, and what comes behind % is an argument there.
    words = re.sub(r"[{}%]", " ", ALL).replace("'", "''")
    yield Trouble("PostgreSQL: another password", gone, password)
    yield Trouble("PostgreSQL: crashed", gone, crash)
    for name, begin, end in (
        ("no login", "ALTER ROLE {user} NOLOGIN", "ALTER ROLE {user} LOGIN"),
        (
            "no connection to spare",
            "ALTER ROLE {user} CONNECTION LIMIT 0",
            "ALTER ROLE {user} CONNECTION LIMIT -1",
        ),
        (
            "closed",
            "ALTER DATABASE {database} ALLOW_CONNECTIONS false",
            "ALTER DATABASE {database} ALLOW_CONNECTIONS true",
        ),
        (
            "only reads",
            "ALTER ROLE {user} SET default_transaction_read_only = on",
            "ALTER ROLE {user} RESET default_transaction_read_only",
        ),
    ):
        yield database_trouble(tenant, name, begin, end, gone)
    for name, begin, end, code in (
        (
            "no table",
            "ALTER TABLE refunds RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO refunds",
            "store-failed",
        ),
        (
            "no rights",
            "ALTER TABLE refunds OWNER TO tests",
            "ALTER TABLE refunds OWNER TO {user}",
            "store-failed",
        ),
        (
            "tells all",
            _GOSSIP.format(words=words),
            "DROP FUNCTION gossip CASCADE",
            "store-failed",
        ),
    ):
        yield database_trouble(tenant, name, begin, end, code, inside=True)


def disk_troubles(victim: Victim, database: Path) -> Iterator[Trouble]:
    """Yield what befalls a SQLite file."""

    @contextmanager
    def full(trouble: Trouble) -> Iterator[None]:
        limited = list(victim.members())
        _limit_files(limited, 4096)
        try:
            yield
        finally:
            _limit_files(limited, resource.RLIM_INFINITY)

    @contextmanager
    def replaced(trouble: Trouble) -> Iterator[None]:
        aside = database.with_suffix(".aside")
        database.rename(aside)
        database.write_text(ALL * 3, encoding="utf-8")
        try:
            yield
        finally:
            aside.replace(database)

    @contextmanager
    def gone(trouble: Trouble) -> Iterator[None]:
        with away(database):
            yield

    yield Trouble("SQLite: the disk is full", "store-unavailable", full)
    yield Trouble("SQLite: the file is another", "store-unavailable", replaced)
    yield Trouble("SQLite: the file is gone", "store-unavailable", gone)


def _limit_files(pids: list[int], size: int) -> None:
    """Let processes write no file larger than *size* (setrlimit(2))."""
    for pid in pids:
        if Path(f"/proc/{pid}").exists():
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
