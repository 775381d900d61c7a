"""Finds compiled statements faster than SQLAlchemy's own cache does."""

from typing import Any


_MOST = 2_000
"""The ledger has about 200 statements, and some that are built for one call."""


class CompiledStatements(dict[tuple[Any, ...], Any]):
    """
    Compiled statements by SQLAlchemy's key, whose second part describes the statement.

    To hash such a description takes up to 0.1 ms, as long as SQLite needs for the
    statement.  A statement that is a constant has one and the same object as its
    description in each call, and is found by that object's identity.
    """

    def __init__(self) -> None:
        super().__init__()
        # Each has the description itself, so that no other object gets its id.
        self._found: dict[tuple[Any, ...], tuple[object, Any]] = {}

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        """Return what was compiled for *key*."""
        identity = (id(key[1]), key[0], *key[2:])
        found = self._found.get(identity)
        if found is not None:
            return found[1]
        compiled = super().get(key, default)
        if compiled is not None:
            if len(self._found) >= _MOST:
                self._found.clear()
            self._found[identity] = (key[1], compiled)
        return compiled

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        if len(self) >= _MOST:
            self.clear()
        super().__setitem__(key, compiled)
