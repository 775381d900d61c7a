"""Inserts that do something else where a row exists, for each dialect."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Integer, Table, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert


InsertOfDialect = Callable[[Table], sqlite.Insert | postgresql.Insert]
INSERT: Mapping[str, InsertOfDialect] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
"""By dialect: the insert that supports ON CONFLICT."""


def insert_new(dialect: str, table: Table) -> ReturningInsert[Any]:
    """Return an insert that does nothing, and returns no row, where the key exists."""
    insert_ = INSERT[dialect](table).on_conflict_do_nothing()
    # The drivers report different row counts for an insert; a returned row is exact.
    return insert_.returning(literal_column("1", Integer))
