"""What each process may write on PostgreSQL, as the tables declare it."""

from collections.abc import Iterator, Mapping

from backends.sql.schema import metadata
from backends.sql.tables import ROLES, granted


Privilege = tuple[str, str, str | None]
"""INSERT, UPDATE or DELETE; a table; and a column, or None for DELETE."""


def _written(role: str) -> Iterator[Privilege]:
    for name, table in metadata.tables.items():
        for privilege, columns in granted(table, role).items():
            if privilege == "DELETE":
                yield privilege, name, None
            elif privilege != "SELECT":
                yield from ((privilege, name, column) for column in columns)


GRANTS: Mapping[str, frozenset[Privilege]] = {
    **{role: frozenset(_written(role)) for role in ROLES},
    "all": frozenset(each for role in ROLES for each in _written(role)),
}
"""By process role: what it may write.  The role "all" is that of `hotwallet up`."""
