"""
Executes statements that change rows, without SQLAlchemy's work for each parameter.

SQLAlchemy compiles a statement once, and then collects and converts the parameters of
each row in several layers, which takes longer than SQLite needs for the row.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import StatementError
from sqlalchemy.sql.visitors import iterate, replacement_traverse
from sqlalchemy.types import TypeEngine

from backends.sql.urls import POSTGRESQL


def parameter(table: sa.Table, name: str) -> Any:
    return sa.bindparam(f"{table.name}_{name}", type_=table.c[name].type)


def parameters(table: sa.Table, names: Iterable[str]) -> dict[str, Any]:
    return {name: parameter(table, name) for name in names}


_ROWS = "rows"


class _GivenRows(sa.Text):
    """The rows of ``given_rows``, as a JSON list; *columns* are their types."""

    def __init__(self, columns: Mapping[str, TypeEngine[Any]]) -> None:
        super().__init__()
        self.columns = columns


def _text(value: Any) -> str:
    """Return *value*, which no type of JSON has, as PostgreSQL reads it."""
    if isinstance(value, Decimal | datetime):
        return str(value)
    return rf"\x{bytes(value.obj).hex()}"  # The driver's wrapper of bytes.


_JSON = json.JSONEncoder(default=_text, check_circular=False)


def given_rows(columns: Mapping[str, TypeEngine[Any]]) -> sa.TableValuedAlias:
    """
    Return the rows that ``execute`` gives to a statement of PostgreSQL, all at once.

    They are one parameter, so the text and the plan are the same for any number.
    """
    rows = sa.cast(sa.bindparam(_ROWS, type_=_GivenRows(columns)), sa.JSON)
    found = sa.func.json_to_recordset(rows).table_valued(
        *(sa.column(name, type_) for name, type_ in columns.items())
    )
    return found.render_derived(name="given_rows", with_types=True)


def _give(rows: Any) -> tuple[sa.TableValuedAlias, Any]:
    """Return given rows, and *rows* with their columns in place of its parameters."""
    binds = {
        each.key: each.type
        for each in iterate(rows)
        if isinstance(each, sa.BindParameter) and each.required
    }
    given = given_rows(binds)

    def give(element: Any, **_: Any) -> Any:
        if isinstance(element, sa.BindParameter) and element.required:
            # Text, so that no query in *rows* reads the given rows itself.
            return sa.literal_column(f"{given.name}.{element.key}", element.type)
        return None

    return given, replacement_traverse(rows, {}, give)


# OFFSET keeps PostgreSQL from planning a query together with the one around it.
_APART: sa.ColumnElement[Any] = sa.literal_column("0")


class RowInsert:
    """
    Inserts rows into *table*; *row* has the parameter of each column.

    With *conditions*, it has columns of another table as well, and one execution
    inserts a row for each row there that fulfils them.
    """

    def __init__(
        self,
        table: sa.Table,
        row: Mapping[str, sa.ColumnElement[Any]],
        *conditions: sa.ColumnElement[bool],
    ) -> None:
        self._table = table
        self._row = row
        self._conditions = conditions

    def of_dialect(self, name: str) -> Any:
        """Return a statement for one execution, or on PostgreSQL for any number."""
        if name != POSTGRESQL and not self._conditions:
            # Inline: no value that the database sets is returned.
            return sa.insert(self._table).values(self._row).inline()
        row = (value.label(column) for column, value in self._row.items())
        rows: Any = sa.select(*row).where(*self._conditions)
        if name == POSTGRESQL:
            given, rows = _give(rows)
            if self._conditions:
                # Or PostgreSQL might read the other table as a whole.
                found = rows.offset(_APART).lateral("found")
                rows = sa.select(*found.c).select_from(given.join(found, sa.true()))
            else:
                rows = rows.select_from(given)
        return sa.insert(self._table).from_select([*self._row], rows)


class RowUpdate:
    """
    Updates the columns *names* of a row of *table* if it fulfils *conditions*.

    Its parameters are those columns and the primary key.  Without *names*, it locks the
    row instead.  It returns the key of each row that it has found.
    """

    def __init__(
        self,
        table: sa.Table,
        names: Iterable[str],
        *conditions: sa.ColumnElement[bool] | sa.TextClause,
    ) -> None:
        self._table = table
        self._key = parameters(table, table.primary_key.columns.keys())
        self._row = parameters(table, names)
        self._conditions = conditions

    def of_dialect(self, name: str) -> Any:
        """Return a statement for one execution, or on PostgreSQL for any number."""
        key = [self._table.c[each] for each in self._key]
        has_key = (column == self._key[column.name] for column in key)
        is_found = (*has_key, *self._conditions)
        rows: Any = sa.select(*key).where(*is_found)
        update = sa.update(self._table).returning(*key)
        if name != POSTGRESQL:
            # A transaction that writes has locked everything.
            return update.where(*is_found).values(self._row) if self._row else rows
        row = (bind.label(f"new_{column}") for column, bind in self._row.items())
        given, rows = _give(rows.add_columns(*row))
        # As an UPDATE locks them, and in the order in which they are given, so that two
        # processes do not deadlock.
        locked = rows.with_for_update(key_share=True).lateral("locked")
        # True of each, and yet PostgreSQL expects one row then instead of 100, and uses
        # the indexes, also those of a new table.
        [first, *_] = (given.c[bind.key] for bind in self._key.values())
        is_given = first == sa.any_(postgresql.array([first]))
        rows = sa.select(*locked.c).select_from(given.join(locked, is_given))
        if not self._row:
            return rows
        new = rows.offset(_APART).subquery("changed").c
        has_key = (column == new[column.name] for column in key)
        values = {column: new[f"new_{column}"] for column in self._row}
        return update.where(*has_key).values(values)


RowStatement = RowInsert | RowUpdate


class _Prepared:
    """The text of a statement for one dialect, and how its parameters are converted."""

    def __init__(self, statement: Any, dialect: sa.Dialect) -> None:
        if isinstance(statement, RowStatement):
            statement = statement.of_dialect(dialect.name)
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self._is_positional = compiled.positiontup is not None
        names = [*dict.fromkeys(compiled.positiontup or compiled.params)]
        if compiled.positiontup is not None:
            # A value that the text has several times is converted and bound once.
            *parts, last = self.text.split("?")
            places = [names.index(name) + 1 for name in compiled.positiontup]
            numbered = [f"{a}?{b}" for a, b in zip(parts, places, strict=True)]
            self.text = "".join([*numbered, last])
        binds = {name: compiled.binds[name] for name in names}
        if any(each.expanding for each in binds.values()):
            raise TypeError("a list of values is not part of a prepared text")
        # Values that are part of the statement.
        self._fixed = {
            name: (_converter(each.type, dialect) or _same)(each.value)
            for name, each in binds.items()
            if not each.required
        }
        types = {name: each.type for name, each in binds.items()}
        given = types.get(_ROWS)
        self._takes_all = isinstance(given, _GivenRows)
        if isinstance(given, _GivenRows):
            types = {**given.columns}
        self._names = [*types]
        self._converters = [
            (place, convert)
            for place, (name, type_) in enumerate(types.items())
            if name not in self._fixed and (convert := _converter(type_, dialect))
        ]

    def parameters(self, rows: Iterable[Mapping[str, Any]]) -> Any:
        """
        Return *rows* as the driver expects them.

        Raises:
            KeyError: A parameter is missing.
            StatementError: The type of a column refuses a value.
        """
        values = [self._values(row) for row in rows]
        if self._takes_all:
            named = [dict(zip(self._names, each, strict=True)) for each in values]
            return {_ROWS: _JSON.encode(named), **self._fixed}
        found: list[Any]
        if self._is_positional:
            found = [tuple(each) for each in values]
        else:
            found = [dict(zip(self._names, each, strict=True)) for each in values]
        return found if len(found) > 1 else found[0]

    def _values(self, row: Mapping[str, Any]) -> list[Any]:
        if self._fixed and not self._takes_all:
            row = {**row, **self._fixed}
        values = [row[name] for name in self._names]
        try:
            for place, convert in self._converters:
                values[place] = convert(values[place])
        except ValueError as e:
            raise StatementError("a value is not valid", self.text, None, e) from None
        return values


def _same(value: Any) -> Any:
    return value


def _converter(
    type_: TypeEngine[Any], dialect: sa.Dialect
) -> Callable[[Any], Any] | None:
    converter: Callable[[Any], Any] | None
    converter = type_.dialect_impl(dialect).bind_processor(dialect)
    return converter


# Equal for all engines of a dialect.  The statements are those of modules, so it is
# bounded.
_prepared: dict[tuple[sa.Executable | RowStatement, str], _Prepared] = {}


def execute(
    connection: sa.Connection,
    statement: sa.Executable | RowStatement,
    rows: Iterable[Mapping[str, Any]],
) -> sa.CursorResult[Any]:
    """
    Execute *statement* with the parameters of each of *rows*.

    The names of *rows* are those of ``bindparam``, or of ``given_rows``; others are
    ignored.  What the statement returns is as the driver yields it.

    Raises:
        SQLAlchemyError: As ``Connection.execute``.
        KeyError: A row lacks a parameter.
    """
    dialect = connection.dialect
    prepared = _prepared.get((statement, dialect.name))
    if prepared is None:
        prepared = _Prepared(statement, dialect)
        _prepared[statement, dialect.name] = prepared
    return connection.exec_driver_sql(prepared.text, prepared.parameters(rows))
