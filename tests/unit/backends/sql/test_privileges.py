"""Privileges to change the audit log: detected, and absent from the shipped role."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from api.auth.dev_tokens import provide_signing_key
from backends.sql.schema import metadata
from backends.sql.statements import SAVED
from tests.fixtures.ledger import accepted
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.roles import DOCKER, Roles, run_sql_file
from tests.fixtures.stores import migrate
from tests.support.ledgers import open_ledger, write_mac_key
from tests.support.waiting import eventually


ROOT = Path(__file__).resolve().parents[4]
GUIDE = (ROOT / "docs" / "reference" / "database.md").read_text(encoding="utf-8")

_SUPERUSER = ["is a superuser, or can become one"]
_SCHEMA = [f"owns the schema of audit_{name}" for name in ("checkpoints", "records")]
_TRIGGERS = [
    f"owns the trigger function of audit_{name}" for name in ("checkpoints", "records")
]
_TABLES = ["owns audit_checkpoints", "owns audit_records"]
_CHECKPOINT = [
    f"may UPDATE audit_checkpoints.{name}" for name in ("at", "note", "size")
]
_TO = "TO hotwallet_service"
_FROM = "FROM hotwallet_service"

_KEPT = (
    "audit_checkpoints",
    "audit_records",
    "refunds",
    "request_signatures",
    "transactions",
)
_CHANGING = {
    "audit_records": {"sequence", "hash"},
    "refunds": {*SAVED, "sender", "key_id", "nonce", "gas_limit"},
}
_DELETES = [f"may DELETE {name}" for name in (*_KEPT, "keys", "stops", "tenant_blocks")]
_UPDATES = [
    f"may UPDATE {name}.{column}"
    for name in _KEPT
    for column in metadata.tables[name].columns.keys()  # noqa: SIM118
    if column not in _CHANGING.get(name, ())
]


def test_the_shipped_grants_end_earlier_ones(shipped: Roles) -> None:
    """An earlier release granted more: running the new file takes it back."""
    shipped.run(f"GRANT DELETE ON stops {_TO}", f"GRANT UPDATE ON refunds {_TO}")
    run_sql_file(DOCKER / "grants.sql", shipped.owner)

    assert shipped.excess_privileges(shipped.service) == []


def test_the_shipped_roles_suffice(shipped: Roles) -> None:
    """The owner upgrades; the service pays and cannot change the audit log."""
    store = open_ledger(shipped.service)
    store.check()
    accepted(store)
    store.close()

    assert shipped.excess_privileges(shipped.service) == []
    assert shipped.excess_privileges(shipped.owner) == [*_TABLES, *_SCHEMA, *_TRIGGERS]
    assert shipped.excess_privileges(shipped.superuser) == _SUPERUSER


# Statements, those that undo them, and the excess privileges in between.
EXCESSES = [
    (
        ["ALTER ROLE hotwallet_service SUPERUSER"],
        ["ALTER ROLE hotwallet_service NOSUPERUSER"],
        _SUPERUSER,
    ),
    ([f"GRANT tests {_TO}"], [f"REVOKE tests {_FROM}"], _SUPERUSER),
    (
        ["ALTER ROLE hotwallet_service NOINHERIT", f"GRANT hotwallet_owner {_TO}"],
        [f"REVOKE hotwallet_owner {_FROM}", "ALTER ROLE hotwallet_service INHERIT"],
        [*_TABLES, *_SCHEMA, *_TRIGGERS],
    ),
    (
        [f"ALTER TABLE audit_records OWNER {_TO}"],
        ["ALTER TABLE audit_records OWNER TO hotwallet_owner"],
        ["owns audit_records"],
    ),
    (
        [f"ALTER SCHEMA public OWNER {_TO}"],
        ["ALTER SCHEMA public OWNER TO pg_database_owner"],
        _SCHEMA,
    ),
    (
        [f"ALTER FUNCTION audit_for_ever OWNER {_TO}"],
        ["ALTER FUNCTION audit_for_ever OWNER TO hotwallet_owner"],
        _TRIGGERS,
    ),
    (
        [f"GRANT DELETE, TRUNCATE ON audit_records {_TO}"],
        [f"REVOKE DELETE, TRUNCATE ON audit_records {_FROM}"],
        ["may DELETE audit_records", "may TRUNCATE audit_records"],
    ),
    (
        ["GRANT TRIGGER ON audit_checkpoints TO PUBLIC"],
        ["REVOKE TRIGGER ON audit_checkpoints FROM PUBLIC"],
        ["may TRIGGER audit_checkpoints"],
    ),
    (
        [f"GRANT UPDATE (body) ON audit_records {_TO}"],
        [f"REVOKE UPDATE (body) ON audit_records {_FROM}"],
        ["may UPDATE audit_records.body"],
    ),
    (
        [f"GRANT UPDATE ON audit_checkpoints {_TO}"],
        [f"REVOKE UPDATE ON audit_checkpoints {_FROM}"],
        _CHECKPOINT,
    ),
    (
        [f"GRANT pg_write_all_data {_TO}"],
        [f"REVOKE pg_write_all_data {_FROM}"],
        [*_DELETES, *_UPDATES],
    ),
    (
        [f"GRANT DELETE ON stops {_TO}"],
        [f"REVOKE DELETE ON stops {_FROM}"],
        ["may DELETE stops"],
    ),
    (
        [f"GRANT UPDATE ON refunds {_TO}"],
        [f"REVOKE UPDATE ON refunds {_FROM}"],
        [each for each in _UPDATES if each.startswith("may UPDATE refunds.")],
    ),
    (
        [f"GRANT pg_execute_server_program {_TO}"],
        [f"REVOKE pg_execute_server_program {_FROM}"],
        _SUPERUSER,
    ),
    (
        [f"GRANT pg_write_server_files {_TO}"],
        [f"REVOKE pg_write_server_files {_FROM}"],
        _SUPERUSER,
    ),
    # These privileges change nothing that must stay.
    (
        [
            f"GRANT SELECT, REFERENCES ON audit_records, audit_checkpoints {_TO}",
            f"GRANT pg_read_all_data, pg_monitor {_TO}",
            f"GRANT DELETE, TRUNCATE ON answers {_TO}",
            "ALTER ROLE hotwallet_service CREATEDB",
        ],
        [
            f"REVOKE REFERENCES ON audit_records, audit_checkpoints {_FROM}",
            f"REVOKE pg_read_all_data, pg_monitor {_FROM}",
            f"REVOKE DELETE, TRUNCATE ON answers {_FROM}",
            "ALTER ROLE hotwallet_service NOCREATEDB",
        ],
        [],
    ),
]


@pytest.mark.parametrize(("done", "undone", "reported"), EXCESSES)
def test_excess_privileges_are_named(
    shipped: Roles, done: list[str], undone: list[str], reported: list[str]
) -> None:
    """Each privilege that the service must not have is named, and no other."""
    shipped.run(*done)
    try:
        found = shipped.excess_privileges(shipped.service)
    finally:
        shipped.run(*undone)
        run_sql_file(DOCKER / "grants.sql", shipped.owner)  # A new owner drops grants.

    assert sorted(found) == sorted(reported)
    assert shipped.excess_privileges(shipped.service) == []


def test_createrole_is_an_excess_privilege(shipped: Roles) -> None:
    """Before PostgreSQL 16, a role with it can grant itself the owner's role."""
    shipped.run("ALTER ROLE hotwallet_service CREATEROLE")
    try:
        found = shipped.excess_privileges(shipped.service)
        with psycopg.connect(shipped.service) as connection:
            is_limited = connection.info.server_version >= 160000
            if not is_limited:
                connection.execute("GRANT hotwallet_owner TO hotwallet_service")
                connection.execute("SET ROLE hotwallet_owner")
                connection.execute("ALTER TABLE audit_records DISABLE TRIGGER USER")
                connection.rollback()
    finally:
        shipped.run("ALTER ROLE hotwallet_service NOCREATEROLE")

    assert found == ([] if is_limited else ["can grant itself any role (CREATEROLE)"])
    assert shipped.excess_privileges(shipped.service) == []


def test_the_guide_moves_a_ledger_to_two_roles(
    shipped: Roles, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """Afterwards the audit log is append-only for the service."""
    older = Roles(postgresql.url(postgresql.create()))
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

        assert older.excess_privileges(older.service) == []
        assert set(_TABLES + _TRIGGERS) <= set(older.excess_privileges(older.owner))
    finally:
        older.disown()


def test_production_refuses_the_owners_role(shipped: Roles, tmp_path: Path) -> None:
    """The guard refuses a role that could change the audit log."""
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    guard = subprocess.run(
        [sys.executable, "-m", "api.cli", "guard"],
        cwd=ROOT,
        env={
            "USE_KMS": "true",
            "KMS_KEY_ID": "arn:aws:kms:eu-central-1:111122223333:alias/refunds",
            "AWS_REGION": "eu-central-1",
            "NETWORKS_FILE": str(DOCKER / "networks.example.toml"),
            "TENANTS_FILE": str(DOCKER / "tenants.example.toml"),
            "AUDIT_SIGNING_KEY_FILE": "/nowhere/audit.pem",
            "MAC_KEY_FILE": str(write_mac_key(tmp_path)),
            "JWT_PUBLIC_KEY_FILE": str(tmp_path / "public.pem"),
            "DATABASE_URL": shipped.owner,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert guard.returncode == 78
    assert guard.stderr.startswith("refused: audit-not-append-only: ")
    assert "owns audit_records" in guard.stderr
    assert "hotwallet_owner" not in guard.stderr


def test_the_shipped_grants_equal_the_guide() -> None:
    grants = (DOCKER / "grants.sql").read_text(encoding="utf-8")

    assert _grants(grants) == _grants(GUIDE)
    assert len(_grants(grants)) == 6


def _grants(text: str) -> list[str]:
    found = re.findall(r"^ *(GRANT [^;]+;)", text, re.MULTILINE)
    return [" ".join(grant.split()) for grant in found]


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

        assert _can_connect(roles.service, "service's")
        assert _can_connect(roles.owner, "owner's")
        assert not _can_connect(roles.service, "owner's")
        assert not _can_connect(superuser, "known")


def test_compose_keeps_the_owner_from_the_service() -> None:
    """API and worker wait for the grants, and get no password of the owner."""
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    _, services = compose.split("\nservices:\n")
    parts = dict(re.findall(r"^  (\w+):\n((?:(?:    .*)?\n)+)", services, re.MULTILINE))
    informed = {name for name, part in parts.items() if "owner.env" in part}
    example = (DOCKER / "owner.env.example").read_text(encoding="utf-8")
    needed = re.findall(r"getenv \w+ (\w+)", (DOCKER / "roles.sql").read_text())

    assert {"database", "upgrade", "grants", "api", "worker", "proxy"} <= parts.keys()
    assert informed == {"database", "upgrade", "grants"}
    assert "hotwallet_owner@/hotwallet?host=/var/run/postgresql" in parts["upgrade"]
    assert "PGUSER: hotwallet_owner" in parts["grants"]
    assert "./roles.sql:/docker-entrypoint-initdb.d/roles.sql:ro" in parts["database"]
    assert "./grants.sql:/grants.sql:ro" in parts["grants"]
    assert "POSTGRES_USER" not in compose
    assert {f"{name}=" for name in ("POSTGRES_PASSWORD", *needed)} <= set(
        example.splitlines()
    )
    for name, waits in (("grants", "upgrade"), ("api", "grants"), ("worker", "grants")):
        assert f"{waits}: {{condition: service_completed_successfully}}" in parts[name]
