"""The ledger as tests open it, with a MAC key of theirs, and its SQL statements."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import event

from backends.sql import SQLStore, sqlite_dbapi
from signer.audit.log import AuditLog
from signer.ports.audit_journal import Journal
from signer.row_macs import RowMACs


_KEY = b"\x07" * 32

ROW_MACS = RowMACs({"tests": _KEY})

DRAFTS = AuditLog(structlog.get_logger("audit"))
"""Drafts records; nothing is written."""


def open_ledger(url: str, **options: Any) -> SQLStore:
    """Return the ledger at *url*; nothing is opened yet."""
    return SQLStore(url, ROW_MACS, **options)


def copy_ledger(source: Path, target: Path) -> Path:
    """Back a SQLite ledger up while it may be in use; return *target*."""
    with closing(sqlite_dbapi.connect(source)) as file:
        file.execute("VACUUM INTO ?", (str(target),))
    target.chmod(0o600)
    return target


def write_mac_key(folder: Path) -> Path:
    """Write the key of ``ROW_MACS`` to a file, for MAC_KEY_FILE; return its path."""
    path = folder / "tests-mac.key"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"tests {_KEY.hex()}\n", encoding="ascii")
    return path


def seal(journal: Journal, limit: int = 1000) -> int | None:
    """Seal up to *limit* records of *journal*; return how many were sealed."""
    done = journal.seal(limit, DRAFTS.forged)
    return None if done is None else done.count


def seal_events(journal: Journal) -> list[str]:
    """Seal the records of *journal*; return the event of each sealed one, in order."""
    seal(journal)
    return [each.record.fields["event"] for each in journal.sealed(0, 1000)]


@contextmanager
def collected_statements(store: SQLStore) -> Iterator[list[str]]:
    """Collect the statements that are sent while the context is open."""
    engine = store._database._process().engine
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def query_plan(store: SQLStore, statement: Any, given: Mapping[str, Any]) -> str:
    engine = store._database._process().engine
    word = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    plan: list[str] = []

    def explain(_: Any, cursor: Any, text: str, values: Any, *__: Any) -> None:
        cursor.execute(f"{word} {text}", values)
        plan.extend(str(row) for row in cursor.fetchall())

    event.listen(engine, "before_cursor_execute", explain)
    store._database.run(lambda c: c.execute(statement, given))
    event.remove(engine, "before_cursor_execute", explain)
    return "\n".join(plan)
