"""Whether the database answers, commits durably, and has the schema of this program."""

from sqlalchemy import text

from backends.sql.database import Database
from backends.sql.errors import UPGRADE
from backends.sql.schema import FIRST, HEAD
from backends.sql.urls import POSTGRESQL, SQLITE
from signer.errors import StoreError, StoreUnavailableError


# Revision; whether the server is read-only (a standby); whether commits may be lost.
_QUERIES = {
    SQLITE: text(
        "SELECT version_num, 0,"
        " (SELECT journal_mode <> 'wal' FROM pragma_journal_mode)"
        " OR (SELECT synchronous < 2 FROM pragma_synchronous)"
        " FROM alembic_version"
    ),
    POSTGRESQL: text(
        "SELECT version_num,"
        " current_setting('transaction_read_only') = 'on',"
        " current_setting('synchronous_commit') = 'off'"
        " FROM alembic_version"
    ),
}


_MAY_LOSE = {
    SQLITE: (
        "another program switched the SQLite file from its write-ahead log, so it may"
        " lose acknowledged commits: stop that program, and restart this one"
    ),
    POSTGRESQL: (
        "synchronous_commit is off, so PostgreSQL may lose acknowledged commits: turn"
        " it on"
    ),
}


def require_health(database: Database) -> None:
    """
    Require that the database is usable, by one query.

    Raises:
        StoreUnavailableError: It does not answer, or is read-only now.
        StoreError: Its schema is not the one that this program needs, or it
            acknowledges commits before they are durable.
    """
    if database.path is not None and not database.path.exists():
        raise StoreError(
            "the SQLite file of DATABASE_URL does not exist: correct the path, or"
            " create a new ledger with `hotwallet db upgrade --create`"
        )
    rows = database.rows(_QUERIES[database.dialect])
    revisions = [revision for revision, _, _ in rows]
    if revisions != [HEAD]:
        raise schema_error(max(revisions, default=None))
    if any(is_read_only for _, is_read_only, _ in rows):
        raise StoreUnavailableError("the database is read-only at the moment")
    if any(may_lose for _, _, may_lose in rows):
        raise StoreError(_MAY_LOSE[database.dialect])


def schema_error(revision: str | None) -> StoreError:
    """Return the error for a database whose *revision* is not ``HEAD``."""
    if revision is None or FIRST <= revision < HEAD:
        return StoreError(
            f"the schema of the database is older than revision {HEAD}: {UPGRADE}"
        )
    if revision < FIRST:
        return StoreError(
            f"the database claims revision {revision!r}, from before rows had MACs:"
            " its rows could be forged, so no release upgrades it. If the ledger was"
            " newer, another program changed it: restore a backup. Otherwise create a"
            " new ledger (`hotwallet db upgrade --create`), and rebuild it from the"
            " audit log with `hotwallet restore`"
        )
    return StoreError(
        "the database was upgraded by a newer release of hotwallet: run that release,"
        " or restore a backup"
    )
