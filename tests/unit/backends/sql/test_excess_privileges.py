"""Privileges that a process must not have: detected, and absent from shipped roles."""

import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import psycopg

from api.auth.dev_tokens import provide_signing_key
from backends.sql.excess_privileges import GRANTS
from backends.sql.tables import ACCEPTED
from signer.model.payment import PaymentPurpose
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.roles import DOCKER, PROCESSES, Roles, run_sql_file
from tests.fixtures.stores import migrate
from tests.support.ledgers import write_mac_key
from tests.support.waiting import eventually


ROOT = Path(__file__).resolve().parents[4]
GUIDE = (ROOT / "docs" / "reference" / "database.md").read_text(encoding="utf-8")

_SUPERUSER = ["is a superuser, or can become one"]
_SCHEMA = [f"owns the schema of audit_{name}" for name in ("checkpoints", "records")]
_TRIGGERS = [
    f"owns the trigger function of audit_{name}" for name in ("checkpoints", "records")
]
_TABLES = ["owns audit_checkpoints", "owns audit_records"]
_TO = "TO hotwallet_worker"
_FROM = "FROM hotwallet_worker"


def test_the_shipped_grants_end_earlier_ones(shipped: Roles) -> None:
    """An earlier release granted more: running the new file takes it back."""
    shipped.run(f"GRANT DELETE ON holds {_TO}", f"GRANT UPDATE ON refunds {_TO}")
    run_sql_file(DOCKER / "grants.sql", shipped.owner)

    assert shipped.excess_privileges(shipped.worker, "worker") == []


def test_the_owner_is_not_a_role_of_a_process(shipped: Roles) -> None:
    """The most severe privileges are reported, and include all others."""
    owned = [*_TABLES, *_SCHEMA, *_TRIGGERS]

    assert shipped.excess_privileges(shipped.owner) == owned
    assert shipped.excess_privileges(shipped.superuser) == _SUPERUSER


def test_each_process_has_its_own_role(shipped: Roles) -> None:
    """The role of one process is refused to another, unless it may only do less."""
    for role, process in product(PROCESSES, PROCESSES):
        found = shipped.excess_privileges(shipped.of(role), process)
        written = GRANTS[role] - GRANTS[process]

        is_part = (role, process) == ("refunds", "admin")
        assert (found == []) == (role == process or is_part) == (written == frozenset())
    for role in PROCESSES:
        assert shipped.excess_privileges(shipped.of(role)) == []


def test_the_administrator_of_a_managed_server_makes_the_roles(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """Amazon RDS, for example, gives no superuser.  It has no privilege afterwards."""
    administrator = Roles(postgresql.url())
    administrator.run("CREATE ROLE managing LOGIN CREATEDB CREATEROLE")
    managed = Roles(postgresql.url().replace("tests@", "managing@"))
    managed.run("CREATE DATABASE managed")
    managed = Roles(managed.superuser.replace("/postgres?", "/managed?"))
    owner = managed.superuser.replace("managing@", "managed_owner@")
    for name in ("roles.sql", "grants.sql"):
        shipped = (DOCKER / name).read_text(encoding="utf-8")
        renamed = shipped.replace("hotwallet_", "managed_")
        (tmp_path / name).write_text(renamed, encoding="utf-8")

    run_sql_file(tmp_path / "roles.sql", managed.superuser)
    migrate(owner)
    run_sql_file(tmp_path / "grants.sql", owner)
    worker = owner.replace("managed_owner@", "managed_worker@")
    with psycopg.connect(administrator.superuser) as connection:
        inherits = "SELECT pg_has_role('managing', 'managed_owner', 'USAGE')"
        row = connection.execute(inherits).fetchone()

    assert managed.excess_privileges(worker, "worker") == []
    assert row == (False,)
    administrator.run("DROP DATABASE managed WITH (FORCE)")
    administrator.run(*(f"DROP ROLE managed_{each}" for each in ("owner", *PROCESSES)))
    administrator.run("DROP ROLE managing")


def test_one_role_may_be_granted_all(shipped: Roles) -> None:
    """A small deployment has one role; it is too much for each single process."""
    grants = ", ".join(f"hotwallet_{each}" for each in PROCESSES)
    single = "hotwallet_single"
    shipped.run(f"CREATE ROLE {single} LOGIN", f"GRANT {grants} TO {single}")
    try:
        url = shipped.of("single")
        found = {each: shipped.excess_privileges(url, each) for each in GRANTS}
    finally:
        shipped.run("DROP ROLE hotwallet_single")

    assert found.pop("all") == []
    assert all(found.values())


_WORKER = "hotwallet_worker"

# Privileges of the worker's role, and the excess ones among them.
GRANTED = {
    "tests": _SUPERUSER,
    "pg_execute_server_program": _SUPERUSER,
    "pg_write_server_files": _SUPERUSER,
    "DELETE, TRUNCATE ON audit_records": [
        "may DELETE audit_records",
        "may TRUNCATE audit_records",
    ],
    "UPDATE (body) ON audit_records": ["may UPDATE audit_records.body"],
    "UPDATE ON audit_checkpoints": ["may UPDATE audit_checkpoints"],
    "hotwallet_refunds": [
        "may DELETE rate_counters",
        "may INSERT rate_counters",
        "may INSERT request_signatures",
        *(f"may INSERT refunds.{each}" for each in ACCEPTED[PaymentPurpose.REFUND]),
        "may UPDATE rate_counters.count",
        "may UPDATE refunds.cancel_requested_at",
    ],
    "DELETE ON holds": ["may DELETE holds"],
    "INSERT ON used_tokens": ["may INSERT used_tokens"],
    "UPDATE (amount, mac) ON refunds": [
        "may UPDATE refunds.amount",
        "may UPDATE refunds.mac",
    ],
    "REFERENCES ON audit_records, audit_checkpoints": [],
    "pg_read_all_data, pg_monitor": [],
}

_CREATE = "CREATE ON SCHEMA public {} PUBLIC"
_TRIGGER = "TRIGGER ON audit_checkpoints {} PUBLIC"
_OWNER = "hotwallet_owner"

# Statements, those that undo them, and the excess privileges in between.
EXCESSES = [
    *(
        ([f"GRANT {each} {_TO}"], [f"REVOKE {each} {_FROM}"], excess)
        for each, excess in GRANTED.items()
    ),
    *(
        (["GRANT " + each.format("TO")], ["REVOKE " + each.format("FROM")], [excess])
        for each, excess in {
            _CREATE: "may CREATE in the schema of audit_records",
            _TRIGGER: "may TRIGGER audit_checkpoints",
        }.items()
    ),
    *(
        ([f"ALTER {each} OWNER {_TO}"], [f"ALTER {each} OWNER TO {owner}"], excess)
        for each, owner, excess in (
            ("TABLE audit_records", _OWNER, ["owns audit_records"]),
            ("SCHEMA public", "pg_database_owner", _SCHEMA),
            ("FUNCTION audit_for_ever", _OWNER, _TRIGGERS),
        )
    ),
    *(
        ([f"ALTER ROLE {_WORKER} {each}"], [f"ALTER ROLE {_WORKER} NO{each}"], excess)
        for each, excess in (("SUPERUSER", _SUPERUSER), ("CREATEDB", []))
    ),
    (
        [f"ALTER ROLE {_WORKER} NOINHERIT", f"GRANT {_OWNER} {_TO}"],
        [f"REVOKE {_OWNER} {_FROM}", f"ALTER ROLE {_WORKER} INHERIT"],
        [*_TABLES, *_SCHEMA, *_TRIGGERS],
    ),
]


def test_excess_privileges_are_named(shipped: Roles) -> None:
    """Each privilege that the worker must not have is named, and no other."""
    for done, undone, reported in EXCESSES:
        shipped.run(*done)
        try:
            found = shipped.excess_privileges(shipped.worker, "worker")
        finally:
            shipped.run(*undone)
            if "OWNER" in done[0]:  # A new owner drops grants.
                run_sql_file(DOCKER / "grants.sql", shipped.owner)

        assert sorted(found) == sorted(reported), done
        assert shipped.excess_privileges(shipped.worker, "worker") == []


def test_a_role_that_may_write_everything(shipped: Roles) -> None:
    """A table is named once if no column of it may be written."""
    shipped.run("GRANT pg_write_all_data TO hotwallet_refunds")
    try:
        found = shipped.excess_privileges(shipped.refunds, "refunds")
    finally:
        shipped.run("REVOKE pg_write_all_data FROM hotwallet_refunds")

    assert {"may UPDATE refunds.amount", "may INSERT refunds.nonce"} <= set(found)
    assert {"may DELETE refunds", "may UPDATE keys", "may INSERT holds"} <= set(found)
    assert not {"may INSERT refunds.amount", "may DELETE rate_counters"} & set(found)


def test_createrole_is_an_excess_privilege(shipped: Roles) -> None:
    """Before PostgreSQL 16, a role with it can grant itself the owner's role."""
    shipped.run("ALTER ROLE hotwallet_worker CREATEROLE")
    try:
        found = shipped.excess_privileges(shipped.worker, "worker")
        with psycopg.connect(shipped.worker) as connection:
            is_limited = connection.info.server_version >= 160000
            if not is_limited:
                connection.execute("GRANT hotwallet_owner TO hotwallet_worker")
                connection.execute("SET ROLE hotwallet_owner")
                connection.execute("ALTER TABLE audit_records DISABLE TRIGGER USER")
                connection.rollback()
    finally:
        shipped.run("ALTER ROLE hotwallet_worker NOCREATEROLE")

    assert found == ([] if is_limited else ["can grant itself any role (CREATEROLE)"])
    assert shipped.excess_privileges(shipped.worker, "worker") == []


def test_the_guide_moves_a_ledger_to_the_owner(
    shipped: Roles, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """Afterwards the processes have their grants, and the audit log is append-only."""
    database = postgresql.create()
    older = Roles(postgresql.url(database))
    migrate(older.superuser)
    (lines,) = [
        block
        for block in re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)
        if "gexec" in block
    ]
    script = tmp_path / "move.sql"
    script.write_text(lines, encoding="utf-8")
    try:
        run_sql_file(script, older.superuser)
        run_sql_file(DOCKER / "grants.sql", older.owner)
        migrate(older.owner)

        for each in PROCESSES:
            assert older.excess_privileges(older.of(each), each) == []
        assert set(_TABLES + _TRIGGERS) <= set(older.excess_privileges(older.owner))
    finally:
        shipped.run(f"DROP DATABASE {database}")


def _guard(url: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the guard in production, with the database role in *url*."""
    provide_signing_key(folder / "private.pem", folder / "public.pem")
    return subprocess.run(
        [sys.executable, "-m", "api.cli", "guard"],
        cwd=ROOT,
        env={
            "NETWORKS_FILE": str(DOCKER / "networks.example.toml"),
            "TENANTS_FILE": str(DOCKER / "tenants.example.toml"),
            "MAC_KEY_FILE": str(write_mac_key(folder)),
            "JWT_PUBLIC_KEY_FILE": str(folder / "public.pem"),
            "DATABASE_URL": url,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_production_refuses_the_owners_role(shipped: Roles, tmp_path: Path) -> None:
    """The guard refuses a role that could change the audit log."""
    guard = _guard(
        shipped.owner,
        tmp_path,
        USE_KMS="true",
        KMS_KEY_ID="arn:aws:kms:eu-central-1:111122223333:alias/refunds",
        AWS_REGION="eu-central-1",
        AUDIT_SIGNING_KEY_FILE="/nowhere/audit.pem",
    )

    assert guard.returncode == 78
    assert guard.stderr.startswith("refused: audit-not-append-only: ")
    assert "owns audit_records" in guard.stderr
    assert "hotwallet_owner" not in guard.stderr


def test_production_starts_with_the_role_of_the_process(
    shipped: Roles, tmp_path: Path
) -> None:
    """A process that accepts refunds starts with its own role, and with no other."""
    own = _guard(shipped.refunds, tmp_path, SERVE_ROLE="refunds")
    other = _guard(shipped.worker, tmp_path, SERVE_ROLE="refunds")

    assert (own.returncode, own.stderr) == (0, "")
    assert other.returncode == 78
    assert other.stderr.startswith("refused: audit-not-append-only: ")
    assert "may UPDATE refunds.nonce" in other.stderr


def _can_connect(url: str, password: str) -> bool:
    try:
        psycopg.connect(url, password=password).close()
    except psycopg.OperationalError:
        return False
    return True


def test_compose_lets_no_role_in_without_its_password() -> None:
    """
    The socket is shared with API and worker, so a role needs its password.

    The superuser needs to be its own system user in the database's container.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hotwallet-pg-") as folder,
        PostgreSQL(Path(folder)) as server,
    ):
        roles = Roles(server.url(server.create()))
        run_sql_file(DOCKER / "roles.sql", roles.superuser)
        roles.run("CREATE ROLE postgres LOGIN SUPERUSER PASSWORD 'known'")
        server.rules.write_bytes((DOCKER / "pg_hba.conf").read_bytes())
        roles.run("SELECT pg_reload_conf()")
        assert eventually(lambda: not _can_connect(roles.superuser, "any"))
        superuser = roles.superuser.replace("tests@", "postgres@")

        for each in ("owner", *PROCESSES):
            assert _can_connect(roles.of(each), f"{each}'s")
            assert not _can_connect(roles.of(each), "any")
        assert not _can_connect(superuser, "known")
