"""The statements that a store sends to its database."""

from collections.abc import Iterator
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
