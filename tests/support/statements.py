"""The statements that a store sends to its database."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from backends.sql import SQLStore


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
    """Execute *statement*, and return its query plan."""
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
