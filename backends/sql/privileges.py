"""
Finds privileges that the service's PostgreSQL role must not have.

Triggers keep the audit log append-only (``migrations/versions``), except for roles that
can drop or disable them.  No role of the service deletes refunds, keys or stops, or
changes what a refund pays.  The queries look for those privileges, also through every
role that the service's role can become.
"""

from sqlalchemy import text

from backends.sql.database import Database
from backends.sql.urls import POSTGRESQL


# Since PostgreSQL 16, a membership may exclude ``SET ROLE``.  Before, every member
# could use it, and CREATEROLE could grant any role except a superuser's.  A role that
# writes the server's files or executes programs there can become a superuser
# (PostgreSQL's manual, "Predefined Roles").
_EXCESS_PRIVILEGES = text("""
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
), kept AS (
    SELECT pg_class.oid, relname FROM pg_class
    WHERE pg_class.oid IN (
        to_regclass('audit_records'), to_regclass('audit_checkpoints'),
        to_regclass('refunds'), to_regclass('transactions'), to_regclass('keys'),
        to_regclass('stops'), to_regclass('tenant_blocks'),
        to_regclass('request_signatures')
    )
), excess (severity, privilege) AS (
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
    SELECT 3, 'may ' || privilege || ' ' || relname
    FROM kept, (VALUES ('DELETE'), ('TRUNCATE'), ('TRIGGER')) AS p (privilege)
    WHERE EXISTS (
        SELECT FROM us WHERE has_table_privilege(us.oid, kept.oid, privilege)
    )
    UNION ALL
    SELECT 3, 'may UPDATE ' || relname || '.' || attname
    FROM kept JOIN pg_attribute
    ON attrelid = kept.oid AND attnum > 0 AND NOT attisdropped
    WHERE relname NOT IN ('keys', 'stops', 'tenant_blocks')
    AND NOT (relname = 'audit_records' AND attname IN ('sequence', 'hash'))
    AND NOT (relname = 'refunds' AND attname IN (
        'status', 'updated_at', 'version', 'sender', 'key_id', 'nonce', 'gas_limit',
        'tx_hash', 'block_number', 'block_hash', 'failure_code', 'failure_detail',
        'due_at', 'attempts', 'blocked_by'
    ))
    AND EXISTS (
        SELECT FROM us
        WHERE has_column_privilege(us.oid, kept.oid, attnum, 'UPDATE')
    )
)
SELECT privilege FROM excess
WHERE severity = (SELECT min(severity) FROM excess) ORDER BY privilege
""")


def excess_privileges(database: Database) -> list[str]:
    """
    Return the privileges that our role must not have, as verb phrases.

    Only the most severe kind is returned, since an owner has all the others.  SQLite
    has no roles, so the list is empty.

    Raises:
        StoreError: The database does not answer.
    """
    if database.dialect != POSTGRESQL:
        return []
    return [privilege for (privilege,) in database.rows(_EXCESS_PRIVILEGES)]
