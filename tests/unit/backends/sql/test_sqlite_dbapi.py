"""The DB-API module over APSW: rows, counts, transactions, and errors."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.sql import sqlite_dbapi
from backends.sql.sqlite import create_file


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite_dbapi.Connection]:
    create_file(tmp_path / "x.db")
    with closing(sqlite_dbapi.connect(tmp_path / "x.db", timeout=0)) as opened:
        opened.execute("CREATE TABLE numbers (number INTEGER UNIQUE, name TEXT)")
        yield opened


def _fill(connection: sqlite_dbapi.Connection, count: int) -> None:
    connection.cursor().executemany(
        "INSERT INTO numbers VALUES (?, ?)", [(n, str(n)) for n in range(count)]
    )


def test_the_library_is_that_of_the_wheel() -> None:
    assert sqlite_dbapi.sqlite_version_info >= (3, 51, 3)


def test_rows_are_fetched_in_parts(connection: sqlite_dbapi.Connection) -> None:
    _fill(connection, 6)
    cursor = connection.execute("SELECT number FROM numbers ORDER BY number")

    assert cursor.fetchone() == (0,)
    assert cursor.fetchmany() == [(1,)]
    assert cursor.fetchmany(2) == [(2,), (3,)]
    assert cursor.fetchall() == [(4,), (5,)]
    assert cursor.fetchone() is None
    assert cursor.fetchall() == []


def test_columns_are_described_without_rows(
    connection: sqlite_dbapi.Connection,
) -> None:
    """SQLAlchemy needs the names also for an empty result."""
    cursor = connection.execute("SELECT number AS n, name FROM numbers")

    assert [column[0] for column in cursor.description or ()] == ["n", "name"]
    assert {len(column) for column in cursor.description or ()} == {7}
    assert connection.execute("DELETE FROM numbers").description is None


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("INSERT INTO numbers VALUES (7, 'x'), (8, 'y')", 2),
        ("INSERT INTO numbers VALUES (1, 'x') ON CONFLICT DO NOTHING", 0),
        ("update numbers SET name = 'x' WHERE number > 0", 2),
        ("  UPDATE\nnumbers SET name = 'x' WHERE number > 0", 2),
        ("UPDATE numbers SET name = 'x' WHERE number = 9", 0),
        ("UPDATE numbers SET name = 'x' RETURNING number", 3),
        ("DELETE FROM numbers WHERE number = 0", 1),
        ("REPLACE INTO numbers VALUES (0, 'x')", 1),
        ("SELECT * FROM numbers", -1),
        ("BEGIN IMMEDIATE", -1),
        ("PRAGMA data_version", -1),
        ("", -1),
    ],
)
def test_changed_rows_are_counted(
    connection: sqlite_dbapi.Connection, statement: str, expected: int
) -> None:
    """A compare-and-set is decided by this number; -1 means that nothing changes."""
    _fill(connection, 3)

    assert connection.execute(statement).rowcount == expected


def test_the_counts_of_many_executions_are_added(
    connection: sqlite_dbapi.Connection,
) -> None:
    _fill(connection, 3)
    cursor = connection.cursor().executemany(
        "UPDATE numbers SET name = 'x' WHERE number >= ?", [(0,), (2,), (9,)]
    )

    assert cursor.rowcount == 4


def test_a_row_that_is_inserted_has_an_id(connection: sqlite_dbapi.Connection) -> None:
    _fill(connection, 3)

    assert connection.execute("INSERT INTO numbers VALUES (5, 'x')").lastrowid == 4


def test_a_transaction_begins_and_ends_explicitly(
    connection: sqlite_dbapi.Connection,
) -> None:
    """Without one, commit and rollback do nothing."""
    connection.commit()
    connection.rollback()
    connection.execute("BEGIN")
    _fill(connection, 2)
    connection.rollback()
    connection.execute("BEGIN")
    _fill(connection, 1)
    connection.commit()

    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM numbers").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("statement", "kind", "code", "name"),
    [
        ("SELECT * FROM x", sqlite_dbapi.OperationalError, 1, "SQLITE_ERROR"),
        (
            "INSERT INTO numbers VALUES (0, '')",
            sqlite_dbapi.IntegrityError,
            apsw.SQLITE_CONSTRAINT_UNIQUE,
            "SQLITE_CONSTRAINT_UNIQUE",
        ),
        ("SELECT zeroblob(1 << 40)", sqlite_dbapi.DataError, 18, "SQLITE_TOOBIG"),
        ("SELECT ?", sqlite_dbapi.ProgrammingError, None, None),
    ],
)
def test_errors_have_class_and_code(
    connection: sqlite_dbapi.Connection,
    statement: str,
    kind: type[sqlite_dbapi.Error],
    code: int | None,
    name: str | None,
) -> None:
    """As those of Python's ``sqlite3``; the extended code is kept."""
    _fill(connection, 1)
    with pytest.raises(sqlite_dbapi.Error) as caught:
        connection.execute(statement)

    assert type(caught.value) is kind
    assert caught.value.sqlite_errorcode == code
    assert caught.value.sqlite_errorname == name
    assert caught.value.__context__ is None


def test_a_locked_file_is_busy(
    connection: sqlite_dbapi.Connection, tmp_path: Path
) -> None:
    with closing(sqlite_dbapi.connect(tmp_path / "x.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite_dbapi.OperationalError) as caught:
            connection.execute("BEGIN IMMEDIATE")

    assert caught.value.sqlite_errorname == "SQLITE_BUSY"


def test_a_second_statement_is_refused(connection: sqlite_dbapi.Connection) -> None:
    """Text that was added to a statement is not executed."""
    _fill(connection, 1)
    with pytest.raises(sqlite_dbapi.ProgrammingError, match="one statement"):
        connection.execute("SELECT 1; DELETE FROM numbers")

    assert connection.execute("SELECT count(*) FROM numbers").fetchall() == [(1,)]


def test_a_closed_connection_is_recognised(
    connection: sqlite_dbapi.Connection,
) -> None:
    """SQLAlchemy's dialect looks for this text, and opens another connection."""
    connection.close()
    with pytest.raises(sqlite_dbapi.ProgrammingError) as caught:
        connection.execute("SELECT 1")

    assert str(caught.value) == "Cannot operate on a closed database."


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(sqlite_dbapi.OperationalError) as caught:
        sqlite_dbapi.connect(tmp_path / "missing.db")

    assert caught.value.sqlite_errorname == "SQLITE_CANTOPEN"
    assert not (tmp_path / "missing.db").exists()
