"""Privileges to change the audit log: detected, and absent from the shipped role."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from api.auth.dev_tokens import provide_signing_key
from backends.sql import SQLStore
from tests.fixtures.ledger import accepted
from tests.fixtures.postgresql import PostgreSQL
from tests.fixtures.stores import migrate
from tests.support import servers
from tests.support.waiting import eventually


ROOT = Path(__file__).resolve().parents[4]
DOCKER = ROOT / "docker"
GUIDE = (ROOT / "docs" / "reference" / "database.md").read_text(encoding="utf-8")

_PASSWORDS = {"PGPASSWORD": "owner's", "SERVICE_PASSWORD": "service's"}


@dataclass(frozen=True, slots=True)
class Roles:
    """One ledger, and its URL for each role."""

    superuser: str

    @property
    def owner(self) -> str:
        """The URL of the role that upgrades the schema."""
        return self.superuser.replace("tests@", "hotwallet_owner@")

    @property
    def service(self) -> str:
        """The URL of the role of API and worker."""
        return self.superuser.replace("tests@", "hotwallet_service@")

    def run(self, *statements: str) -> None:
        """Run *statements* as the superuser."""
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def disown(self) -> None:
        """Take this ledger from both roles, so that they can be dropped."""
        database = psycopg.conninfo.conninfo_to_dict(self.superuser)["dbname"]
        self.run(
            f"ALTER DATABASE {database} OWNER TO tests",
            "DROP OWNED BY hotwallet_service CASCADE",
            "DROP OWNED BY hotwallet_owner CASCADE",
        )

    def excess_privileges(self, url: str) -> list[str]:
        """Return the excess privileges of the role in *url*."""
        store = SQLStore(url)
        try:
            return store.excess_privileges()
        finally:
            store.close()


def _run_file(path: Path, url: str) -> None:
    """Run a shipped SQL file, as the database's image and compose do."""
    psql = servers.postgresql(user=None) / "psql"
    subprocess.run(
        [psql, "--no-psqlrc", "--quiet", "--file", str(path), url],
        env={"PATH": os.environ["PATH"], **_PASSWORDS},
        check=True,
        timeout=30,
    )


@pytest.fixture(scope="module")
def shipped(postgresql: PostgreSQL) -> Iterator[Roles]:
    """A ledger with the two roles of docker/compose.yaml, made as it makes them."""
    roles = Roles(postgresql.url(postgresql.create()))
    _run_file(DOCKER / "roles.sql", roles.superuser)
    migrate(roles.owner)
    _run_file(DOCKER / "grants.sql", roles.owner)
    yield roles
    roles.disown()
    roles.run("DROP ROLE hotwallet_service", "DROP ROLE hotwallet_owner")


_SUPERUSER = ["is a superuser, or can become one"]
_SCHEMA = [f"owns the schema of audit_{name}" for name in ("checkpoints", "records")]
_TRIGGERS = [
    f"owns the trigger function of audit_{name}" for name in ("checkpoints", "records")
]
_TABLES = ["owns audit_checkpoints", "owns audit_records"]
_CHECKPOINT = [
    f"may UPDATE audit_checkpoints.{name}" for name in ("at", "note", "size")
]


def test_the_shipped_roles_suffice(shipped: Roles) -> None:
    """The owner upgrades; the service pays and cannot change the audit log."""
    store = SQLStore(shipped.service)
    store.check()
    accepted(store)
    store.close()

    assert shipped.excess_privileges(shipped.service) == []
    assert shipped.excess_privileges(shipped.owner) == [*_TABLES, *_SCHEMA, *_TRIGGERS]
    assert shipped.excess_privileges(shipped.superuser) == _SUPERUSER


_TO = "TO hotwallet_service"
_FROM = "FROM hotwallet_service"

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
        [
            "may DELETE audit_checkpoints",
            "may DELETE audit_records",
            *_CHECKPOINT,
            "may UPDATE audit_records.body",
            "may UPDATE audit_records.id",
        ],
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
    # These privileges cannot change the audit log.
    (
        [
            f"GRANT SELECT, REFERENCES ON audit_records, audit_checkpoints {_TO}",
            f"GRANT pg_read_all_data, pg_monitor {_TO}",
            f"GRANT DELETE, TRUNCATE ON refunds {_TO}",
            "ALTER ROLE hotwallet_service CREATEDB",
        ],
        [
            f"REVOKE REFERENCES ON audit_records, audit_checkpoints {_FROM}",
            f"REVOKE pg_read_all_data, pg_monitor {_FROM}",
            f"REVOKE DELETE, TRUNCATE ON refunds {_FROM}",
            "ALTER ROLE hotwallet_service NOCREATEDB",
        ],
        [],
    ),
]


@pytest.mark.parametrize(("done", "undone", "reported"), EXCESSES)
def test_excess_privileges_are_named(
    shipped: Roles, done: list[str], undone: list[str], reported: list[str]
) -> None:
    """Each privilege that can change the audit log is named, and no other."""
    shipped.run(*done)
    try:
        found = shipped.excess_privileges(shipped.service)
    finally:
        shipped.run(*undone)
        _run_file(DOCKER / "grants.sql", shipped.owner)  # A new owner drops grants.

    assert found == reported
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
        _run_file(script, older.superuser)
        _run_file(DOCKER / "grants.sql", older.owner)
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
            "KMS_KEY_ID": "1234abcd-12ab-34cd-56ef-1234567890ab",
            "AWS_REGION": "eu-central-1",
            "NETWORKS_FILE": str(DOCKER / "networks.example.toml"),
            "TENANTS_FILE": str(DOCKER / "tenants.example.toml"),
            "AUDIT_SIGNING_KEY_FILE": "/nowhere/audit.pem",
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
    assert len(_grants(grants)) == 5


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
        _run_file(DOCKER / "roles.sql", roles.superuser)
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
