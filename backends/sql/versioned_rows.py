"""Rows that carry a version and a MAC, as one transaction reads and writes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from signer.errors import StaleStateError
from signer.model.sealed_fields import SealedRow
from signer.row_macs import RowMACs


InsertOfDialect = Callable[[sa.Table], sqlite.Insert | postgresql.Insert]
INSERT: Mapping[str, InsertOfDialect] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
"""By dialect: the insert that supports ON CONFLICT."""


def insert_new(dialect: str, table: sa.Table) -> ReturningInsert[Any]:
    """Return an insert that does nothing, and returns no row, where the key exists."""
    insert_ = INSERT[dialect](table).on_conflict_do_nothing()
    # The drivers report different row counts for an insert; a returned row is exact.
    return insert_.returning(sa.literal_column("1", sa.Integer))


class VersionedRow(SealedRow, Protocol):
    """A row whose changes are counted: each is a compare-and-set."""

    @property
    def version(self) -> int: ...


class FlaggedRow(VersionedRow, Protocol):
    """A row that says whether it is authentic, so that it can still be listed."""

    @property
    def is_authentic(self) -> bool: ...


Row = TypeVar("Row", bound=VersionedRow)

Flagged = TypeVar("Flagged", bound=FlaggedRow)


class SealedRows(Generic[Row]):
    """
    The rows of *table*, whose values are of the class *kind*.

    A method that reads a row raises ``RowNotAuthenticError`` if its MAC is not valid.
    """

    def __init__(
        self, connection: sa.Connection, macs: RowMACs, table: sa.Table, kind: type[Row]
    ) -> None:
        self._connection = connection
        self._macs = macs
        self._table = table
        self._kind: type[Row] = kind

    def select(self, query: sa.Select[Any], **values: Any) -> Sequence[Row]:
        found = self.select_unverified(query, **values)
        for row in found:
            self._macs.require(row)
        return found

    def select_unverified(self, query: sa.Select[Any], **values: Any) -> Sequence[Row]:
        """Return the rows that *query* selects; do not trust their content."""
        rows = self._connection.execute(query, values)
        return tuple(self._kind(*row) for row in rows)

    def is_authentic(self, row: Row) -> bool:
        """Return whether the MAC of *row* is valid."""
        return self._macs.is_valid(row.mac, row)

    def find(self, query: sa.Select[Any], **values: Any) -> Row | None:
        found = self.select(query, **values)
        return found[0] if found else None

    def insert(self, row: Row) -> Row:
        """
        Insert *row*, and return it with its MAC.

        Raises:
            StaleStateError: Another process inserted a row with the key meanwhile.
        """
        new = self._macs.sealed(row)
        statement = insert_new(self._connection.dialect.name, self._table)
        if not self._connection.execute(statement, self._values(new)).all():
            raise StaleStateError(f"a row of {self._table.name} was changed meanwhile")
        return new

    def update(self, row: Row, **changes: Any) -> Row:
        """
        Apply *changes* to *row*, and return it as it is now, one version later.

        Raises:
            StaleStateError: The stored version is not that of *row*.
        """
        return self.replace(row, replace(row, **changes))

    def replace(self, row: Row, new: Row) -> Row:
        """Replace *row* by *new*, which has the same key; as ``update``."""
        after = self._macs.sealed(replace(new, version=row.version + 1))
        old, values = self._values(row), self._values(after)
        # Not every process may set every column.
        names = tuple(name for name in values if values[name] != old[name])
        new_values = {f"new_{name}": value for name, value in values.items()}
        done = self._connection.execute(
            _update(self._table, names), {**new_values, "before": row.version}
        )
        if done.rowcount != 1:
            raise StaleStateError(f"a row of {self._table.name} was changed meanwhile")
        return after

    def _values(self, row: Row) -> dict[str, Any]:
        """Return the columns of *row*: not all of its fields are stored."""
        return {each.name: getattr(row, each.name) for each in self._table.c}


def select_flagged(
    rows: SealedRows[Flagged], query: sa.Select[Any], **values: Any
) -> Sequence[Flagged]:
    """Return the rows that *query* selects, each with whether it is authentic."""
    found = rows.select_unverified(query, **values)
    return tuple(replace(row, is_authentic=rows.is_authentic(row)) for row in found)


@cache
def _update(table: sa.Table, changed: tuple[str, ...]) -> sa.Update:
    """Return the update of the columns *changed* of one version."""
    new = {
        name: sa.bindparam(f"new_{name}", type_=c.type) for name, c in table.c.items()
    }
    matches = [column == new[column.name] for column in table.primary_key]
    return (
        sa.update(table)
        .where(*matches, table.c.version == sa.bindparam("before"))
        .values({name: new[name] for name in changed})
    )
