"""
Finds privileges that a process's PostgreSQL role must not have.

What each role needs is declared with each table, in ``backends.sql.tables``.

Triggers keep the audit log append-only (``backends.sql.triggers``), except for roles
that can drop or disable them.  Everything else is judged by the grants that the process
needs.  The queries also look through every role that the process's role can become.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import sqlalchemy as sa

from backends.sql.database import Database
from backends.sql.table_declaration import ROLES, granted
from backends.sql.tables import metadata
from backends.sql.urls import POSTGRESQL


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


# Since PostgreSQL 16, a membership may exclude ``SET ROLE``.  Before, every member
# could use it, and CREATEROLE could grant any role except a superuser's.  A role that
# writes the server's files or executes programs there can become a superuser
# (PostgreSQL's manual, "Predefined Roles").
_US = """
WITH us AS (
    SELECT oid, rolcreaterole, rolsuper OR rolname
    IN ('pg_execute_server_program', 'pg_write_server_files') AS is_super
    FROM pg_roles
    WHERE pg_has_role(oid, 'USAGE')
    OR pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')
    OR pg_has_role(oid, CASE
        WHEN CAST(current_setting('server_version_num') AS int) >= 160000 THEN 'SET'
        ELSE 'MEMBER'
    END)
)"""

# A role that may create functions can have other roles call them (CVE-2018-1058).
_POWERS = """, journal AS (
    SELECT pg_class.oid, relname, relowner, relnamespace, nspowner
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid
    IN (to_regclass('audit_records'), to_regclass('audit_checkpoints'))
), powers (severity, power) AS (
    SELECT 1, 'is a superuser, or can become one'
    WHERE EXISTS (SELECT FROM us WHERE is_super)
    UNION ALL
    SELECT 2, 'can grant itself any role (CREATEROLE)'
    WHERE CAST(current_setting('server_version_num') AS int) < 160000
    AND EXISTS (SELECT FROM us WHERE rolcreaterole)
    UNION ALL
    SELECT 2, 'owns ' || relname FROM journal
    WHERE relowner IN (SELECT oid FROM us)
    UNION ALL
    SELECT 2, 'owns the schema of ' || relname FROM journal
    WHERE nspowner IN (SELECT oid FROM us)
    UNION ALL
    SELECT 2, 'owns the trigger function of ' || relname
    FROM journal
    WHERE EXISTS (
        SELECT FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE tgrelid = journal.oid AND NOT tgisinternal
        AND proowner IN (SELECT oid FROM us)
    )
    UNION ALL
    SELECT 3, 'may CREATE in the schema of audit_records'
    FROM journal
    WHERE relname = 'audit_records' AND EXISTS (
        SELECT FROM us WHERE has_schema_privilege(us.oid, relnamespace, 'CREATE')
    )
)
SELECT power FROM powers
WHERE severity = (SELECT min(severity) FROM powers) ORDER BY power
"""

_HELD = """, ledger AS (
    SELECT pg_class.oid, relname
    FROM pg_class JOIN unnest(CAST(:tables AS text[])) AS name
    ON pg_class.oid = to_regclass(name)
)
SELECT privilege, relname, NULL
FROM ledger, (VALUES ('DELETE'), ('TRUNCATE'), ('TRIGGER')) AS p (privilege)
WHERE EXISTS (
    SELECT FROM us WHERE has_table_privilege(us.oid, ledger.oid, privilege)
)
UNION ALL
SELECT privilege, relname, attname
FROM ledger
JOIN pg_attribute ON attrelid = ledger.oid AND attnum > 0 AND NOT attisdropped,
(VALUES ('INSERT'), ('UPDATE')) AS p (privilege)
WHERE EXISTS (
    SELECT FROM us WHERE has_column_privilege(us.oid, ledger.oid, attnum, privilege)
)
"""


def excess_privileges(database: Database, role: str) -> list[str]:
    """
    Return the privileges that a process must not have, as verb phrases.

    *role* is a key of ``GRANTS``.  Only the most severe kind is returned, since an
    owner has all the others.  SQLite has no roles, so the list is empty.

    Raises:
        StoreError: The database does not answer.
    """
    if database.dialect != POSTGRESQL:
        return []
    powers = [power for (power,) in database.rows(sa.text(_US + _POWERS))]
    if powers:
        return powers
    held = database.rows(sa.text(_US + _HELD), tables=sorted(metadata.tables))
    return sorted(_describe({(p, t, c) for p, t, c in held} - GRANTS[role]))


def _describe(excess: Iterable[Privilege]) -> Iterator[str]:
    """Yield a phrase for each privilege, or one for all columns of a table."""
    columns: dict[tuple[str, str], list[str]] = defaultdict(list)
    for privilege, table, column in excess:
        names = columns[privilege, table]
        names += [] if column is None else [column]
    for (privilege, table), names in columns.items():
        if len(names) in {0, len(metadata.tables[table].c)}:
            yield f"may {privilege} {table}"
        else:
            yield from (f"may {privilege} {table}.{name}" for name in names)
