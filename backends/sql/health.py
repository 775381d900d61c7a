"""Whether the database answers, keeps what it says it keeps, and has our schema."""

from collections.abc import Sequence

from sqlalchemy import text

from backends.sql.database import Database
from backends.sql.errors import UPGRADE
from backends.sql.schema import HEAD
from backends.sql.urls import POSTGRESQL, SQLITE
from signer.errors import StoreError, StoreUnavailableError


NEWER = "the database was upgraded by a newer release of hotwallet"

# Revision, whether it only reads (a standby), whether commits may be lost.
_QUESTIONS = {
    SQLITE: text("SELECT version_num, 0, 0 FROM alembic_version"),
    POSTGRESQL: text(
        "SELECT version_num,"
        " current_setting('transaction_read_only') = 'on',"
        " current_setting('synchronous_commit') = 'off'"
        " FROM alembic_version"
    ),
}


def require_health(database: Database) -> None:
    """
    Require that the database may be used, by one question to it.

    Raises:
        StoreUnavailableError: It does not answer, or only reads at the moment.
        StoreError: The schema is another one, or commits are not durable.
    """
    if database.is_missing:
        raise StoreError(f"there is no database yet: {UPGRADE}")
    question = _QUESTIONS[database.dialect]
    rows = database.run(lambda c: c.execute(question).all())
    _require_head([revision for revision, _, _ in rows])
    if any(only_reads for _, only_reads, _ in rows):
        raise StoreUnavailableError("the database only reads at the moment")
    if any(forgets for _, _, forgets in rows):
        raise StoreError("the database must have synchronous_commit on")


def _require_head(revisions: Sequence[str]) -> None:
    if list(revisions) == [HEAD]:
        return
    if any(revision > HEAD for revision in revisions):
        raise StoreError(NEWER)
    raise StoreError(f"the database is not upgraded to {HEAD}: {UPGRADE}")
