"""
What the service's role may do to the audit beyond writing it: on PostgreSQL, nothing.

Triggers keep the audit append-only (``migrations/versions/r0003_keys.py``) for all but
those who can drop or disable them.  So the database is asked who that is.  Whatever
another role may do counts if ours can become that role.
"""

from sqlalchemy import text

from backends.sql.database import Database
from backends.sql.urls import POSTGRESQL


# Since PostgreSQL 16, a member may be kept from ``SET ROLE``; before, none was, and
# CREATEROLE gave any role but a superuser's.  Who writes the server's files, or runs
# programs there, is its superuser (PostgreSQL's manual, "Predefined Roles").
_LIBERTIES = text("""
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
), journal AS (
    SELECT pg_class.oid, relname, relowner, nspowner
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid
    IN (to_regclass('audit_records'), to_regclass('audit_checkpoints'))
), found (severity, said) AS (
    SELECT 1, 'is a superuser, or can become one'
    WHERE EXISTS (SELECT FROM us WHERE is_super)
    UNION ALL
    SELECT 2, 'may give itself any role (CREATEROLE)'
    WHERE CAST(current_setting('server_version_num') AS int) < 160000
    AND EXISTS (SELECT FROM us WHERE rolcreaterole)
    UNION ALL
    SELECT 2, 'owns ' || relname FROM journal
    WHERE relowner IN (SELECT oid FROM us)
    UNION ALL
    SELECT 2, 'owns the schema of ' || relname FROM journal
    WHERE nspowner IN (SELECT oid FROM us)
    UNION ALL
    SELECT 2, 'owns what the triggers of ' || relname || ' do'
    FROM journal
    WHERE EXISTS (
        SELECT FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE tgrelid = journal.oid AND NOT tgisinternal
        AND proowner IN (SELECT oid FROM us)
    )
    UNION ALL
    SELECT 3, 'may ' || privilege || ' ' || relname
    FROM journal, (VALUES ('DELETE'), ('TRUNCATE'), ('TRIGGER')) AS p (privilege)
    WHERE EXISTS (
        SELECT FROM us WHERE has_table_privilege(us.oid, journal.oid, privilege)
    )
    UNION ALL
    SELECT 3, 'may UPDATE ' || relname || '.' || attname
    FROM journal JOIN pg_attribute
    ON attrelid = journal.oid AND attnum > 0 AND NOT attisdropped
    WHERE NOT (relname = 'audit_records' AND attname IN ('sequence', 'hash'))
    AND EXISTS (
        SELECT FROM us
        WHERE has_column_privilege(us.oid, journal.oid, attnum, 'UPDATE')
    )
)
SELECT said FROM found
WHERE severity = (SELECT min(severity) FROM found) ORDER BY said
""")


def liberties(database: Database) -> list[str]:
    """
    Return what our role may do to the audit that it should not, in words of ours.

    The worst alone, since an owner may also do all the rest.  SQLite has no roles.

    Raises:
        StoreError: The database does not answer.
    """
    if database.dialect != POSTGRESQL:
        return []
    return database.run(lambda c: list(c.execute(_LIBERTIES).scalars()))
