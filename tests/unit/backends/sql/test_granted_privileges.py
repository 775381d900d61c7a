"""Each process does its work with the grants of its database role, and needs each."""

from contextlib import closing

import psycopg
import pytest

from backends.sql.excess_privileges import GRANTS, Privilege
from signer.errors import StoreError
from tests.fixtures.roles import PROCESSES, Processes, Roles
from tests.support.ledgers import open_ledger
from tests.unit.backends.sql.process_work import (
    Statements,
    work_on_batches,
    work_on_events,
    work_on_keys,
    work_on_limits,
    work_on_refunds,
    work_on_signing,
    work_on_stops,
    work_on_the_audit_log,
    work_on_wallets,
    work_on_workers,
)


def test_the_shipped_grants_are_those_that_are_judged(shipped: Roles) -> None:
    """What the guard tolerates is what docker/grants.sql grants."""
    assert {name: _granted(shipped, name) for name in PROCESSES} == {
        name: GRANTS[name] for name in PROCESSES
    }
    assert GRANTS["all"] == frozenset().union(*(GRANTS[name] for name in PROCESSES))


def _granted(shipped: Roles, process: str) -> frozenset[Privilege]:
    """Return what the role of *process* may write."""
    rows = _privileges(shipped, process)
    return frozenset(row for row in rows if row[0] != "SELECT")


def _privileges(shipped: Roles, process: str) -> list[tuple[str, str, str | None]]:
    """Return privilege, table, and column for those that columns have."""
    query = """
        SELECT privilege_type, table_name, column_name
        FROM information_schema.role_column_grants WHERE grantee = %(role)s
        UNION SELECT privilege_type, table_name, NULL
        FROM information_schema.role_table_grants WHERE grantee = %(role)s
        AND privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
    """
    with psycopg.connect(shipped.superuser) as connection:
        role = {"role": f"hotwallet_{process}"}
        return connection.execute(query, role).fetchall()


def test_no_process_needs_more_or_less(shipped: Roles, processes: Processes) -> None:
    """What the processes execute is what they are granted, to the column."""
    shipped.clear()
    statements = Statements(processes)
    work_on_keys(processes)
    shipped.clear()
    work_on_refunds(processes)
    work_on_signing(processes)
    work_on_events(processes)
    work_on_wallets(processes)
    work_on_stops(processes)
    work_on_limits(processes)
    work_on_the_audit_log(processes)
    work_on_workers(processes)
    work_on_batches(processes)
    for name in PROCESSES:
        granted = _privileges(shipped, name)
        readable = {row[1] for row in granted if row[0] == "SELECT"}
        assert statements.written(name) == GRANTS[name], name
        assert statements.read(name) == readable, name


def test_the_error_of_a_refusal_names_the_file(shipped: Roles) -> None:
    """``tests/attacks/test_database_roles.py`` has what else is refused."""
    with (
        closing(open_ledger(shipped.refunds)) as store,
        pytest.raises(StoreError, match=r"docker/grants\.sql.*42501"),
    ):
        store._database.run(lambda c: c.exec_driver_sql("DELETE FROM audit_records"))
