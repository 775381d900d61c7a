"""
Executes statements that change rows, without SQLAlchemy's work for each parameter.

SQLAlchemy compiles a statement once, and then collects and converts the parameters of
each row in several layers, which takes longer than SQLite needs for the row.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, Executable
from sqlalchemy.exc import StatementError


class _Prepared:
    """The text of a statement for one dialect, and how its parameters are converted."""

    def __init__(self, statement: Any, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self._is_positional = compiled.positiontup is not None
        names = compiled.positiontup or [*compiled.params]
        self._names = [*names]
        binds = [compiled.binds[name] for name in names]
        if any(each.expanding for each in binds):
            raise TypeError("a list of values is not part of a prepared text")
        self._converters = [_converter(each, dialect) for each in binds]
        # Values that are part of the statement.
        self._fixed = {
            name: each.value
            for name, each in zip(names, binds, strict=True)
            if not each.required
        }

    def parameters(self, row: Mapping[str, Any]) -> Any:
        """
        Return *row* as the driver expects it.

        Raises:
            KeyError: A parameter is missing.
            StatementError: The type of a column refuses a value.
        """
        if self._fixed:
            row = {**row, **self._fixed}
        try:
            values = [
                row[name] if convert is None else convert(row[name])
                for name, convert in zip(self._names, self._converters, strict=True)
            ]
        except ValueError as e:
            raise StatementError("a value is not valid", self.text, None, e) from None
        if self._is_positional:
            return tuple(values)
        return dict(zip(self._names, values, strict=True))


def _converter(bind: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    converter: Callable[[Any], Any] | None
    converter = bind.type.dialect_impl(dialect).bind_processor(dialect)
    return converter


# Equal for all engines of a dialect.  The statements are those of modules, so it is
# bounded.
_prepared: dict[tuple[Executable, str], _Prepared] = {}


def execute(
    connection: Connection, statement: Executable, rows: Iterable[Mapping[str, Any]]
) -> CursorResult[Any]:
    """
    Execute *statement* with the parameters of each of *rows*.

    The names of *rows* are those of ``bindparam``; others are ignored.  What the
    statement returns is as the driver yields it.

    Raises:
        SQLAlchemyError: As ``Connection.execute``.
        KeyError: A row lacks a parameter.
    """
    dialect = connection.dialect
    prepared = _prepared.get((statement, dialect.name))
    if prepared is None:
        prepared = _Prepared(statement, dialect)
        _prepared[statement, dialect.name] = prepared
    parameters = [prepared.parameters(row) for row in rows]
    return connection.exec_driver_sql(
        prepared.text, parameters if len(parameters) > 1 else parameters[0]
    )
