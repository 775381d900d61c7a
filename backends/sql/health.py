"""Whether the database answers, commits durably, and has the schema of this program."""

from collections.abc import Sequence

from sqlalchemy import text

from backends.sql.database import Database
from backends.sql.tables import HEAD
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
        raise schema_error(revisions)
    if any(is_read_only for _, is_read_only, _ in rows):
        raise StoreUnavailableError("the database is read-only at the moment")
    if any(may_lose for _, _, may_lose in rows):
        raise StoreError(_MAY_LOSE[database.dialect])


def schema_error(revisions: Sequence[str]) -> StoreError:
    """Return the error for a database whose *revisions* are not ``HEAD`` alone."""
    found = f"revision {', '.join(revisions)}" if revisions else "no revision"
    return StoreError(
        f"the ledger has {found}, and this program needs revision {HEAD}: run the"
        " release of hotwallet that made the ledger, or restore a backup. No release"
        " upgrades it, because its rows could be forged. A new ledger (`hotwallet db"
        " upgrade --create`) can be rebuilt from the audit log with `hotwallet restore`"
    )
