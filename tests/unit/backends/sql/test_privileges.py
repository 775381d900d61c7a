"""Who could change the audit: PostgreSQL is asked, and two roles are shipped."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from api.auth.dev_tokens import provide_signing_key
from backends.sql import SQLStore
from tests.fixtures.ledger import accepted
from tests.fixtures.postgresql import PostgreSQL


ROOT = Path(__file__).resolve().parents[4]
DOCKER = ROOT / "docker"
GUIDE = (ROOT / "docs" / "database.md").read_text(encoding="utf-8")

_PASSWORDS = {"PGPASSWORD": "owner's", "SERVICE_PASSWORD": "service's"}


@dataclass(frozen=True, slots=True)
class Roles:
    """One ledger, and the URLs of those who come to it."""

    superuser: str

    @property
    def owner(self) -> str:
        """Of who upgrades the schema."""
        return self.superuser.replace("tests@", "hotwallet_owner@")

    @property
    def service(self) -> str:
        """Of API and worker."""
        return self.superuser.replace("tests@", "hotwallet_service@")

    def run(self, *statements: str) -> None:
        """Have the superuser run *statements*."""
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def disown(self) -> None:
        """Take everything of this ledger from both, so that they may go."""
        database = psycopg.conninfo.conninfo_to_dict(self.superuser)["dbname"]
        self.run(
            f"ALTER DATABASE {database} OWNER TO tests",
            "DROP OWNED BY hotwallet_service CASCADE",
            "DROP OWNED BY hotwallet_owner CASCADE",
        )

    def liberties(self, url: str) -> list[str]:
        """Return what the role of *url* may do."""
        store = SQLStore(url)
        try:
            return store.excess_privileges()
        finally:
            store.close()


def _run_file(path: Path, url: str) -> None:
    """Run what is shipped, as the database's image and compose do."""
    subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", "--file", str(path), url],
        env={"PATH": os.environ["PATH"], **_PASSWORDS},
        check=True,
        timeout=30,
    )


def _migrate(url: str) -> None:
    store = SQLStore(url)
    store.migrate()
    store.close()


@pytest.fixture(scope="module")
def shipped(postgresql: PostgreSQL) -> Iterator[Roles]:
    """A ledger with the two roles of docker/compose.yaml, made as it makes them."""
    roles = Roles(postgresql.url(postgresql.create()))
    _run_file(DOCKER / "roles.sql", roles.superuser)
    _migrate(roles.owner)
    _run_file(DOCKER / "grants.sql", roles.owner)
    yield roles
    roles.disown()
    roles.run("DROP ROLE hotwallet_service", "DROP ROLE hotwallet_owner")


def test_the_shipped_roles_do_their_work(shipped: Roles) -> None:
    """The owner upgrades, the service pays, and the service cannot change the past."""
    store = SQLStore(shipped.service)
    store.check()
    accepted(store)
    store.close()

    assert shipped.liberties(shipped.service) == []
    assert shipped.liberties(shipped.owner) == [
        "owns audit_checkpoints",
        "owns audit_records",
        "owns the schema of audit_checkpoints",
        "owns the schema of audit_records",
        "owns what the triggers of audit_checkpoints do",
        "owns what the triggers of audit_records do",
    ]
    assert shipped.liberties(shipped.superuser) == ["is a superuser, or can become one"]


_SUPERUSER = ["is a superuser, or can become one"]
_SCHEMA = [f"owns the schema of audit_{name}" for name in ("checkpoints", "records")]
_TRIGGERS = [
    f"owns what the triggers of audit_{name} do" for name in ("checkpoints", "records")
]
_TABLES = ["owns audit_checkpoints", "owns audit_records"]
_CHECKPOINT = [
    f"may UPDATE audit_checkpoints.{name}" for name in ("at", "note", "size")
]

_TO = "TO hotwallet_service"
_FROM = "FROM hotwallet_service"

# What somebody does, what undoes it, and what the database says meanwhile.
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
    # Nothing of this changes the audit.
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


@pytest.mark.parametrize(("done", "undone", "said"), EXCESSES)
def test_what_is_too_much(
    shipped: Roles, done: list[str], undone: list[str], said: list[str]
) -> None:
    """Whatever lets a role change the audit is named, and nothing else is."""
    shipped.run(*done)
    try:
        found = shipped.liberties(shipped.service)
    finally:
        shipped.run(*undone)
        _run_file(DOCKER / "grants.sql", shipped.owner)  # An owner's go with the table.

    assert found == said
    assert shipped.liberties(shipped.service) == []


def test_who_makes_roles_can_have_any(shipped: Roles) -> None:
    """Before PostgreSQL 16, CREATEROLE gives the owner's role to whoever has it."""
    shipped.run("ALTER ROLE hotwallet_service CREATEROLE")
    try:
        found = shipped.liberties(shipped.service)
        with psycopg.connect(shipped.service) as connection:
            is_limited = connection.info.server_version >= 160000
            if not is_limited:
                connection.execute("GRANT hotwallet_owner TO hotwallet_service")
                connection.execute("SET ROLE hotwallet_owner")
                connection.execute("ALTER TABLE audit_records DISABLE TRIGGER USER")
                connection.rollback()
    finally:
        shipped.run("ALTER ROLE hotwallet_service NOCREATEROLE")

    assert found == ([] if is_limited else ["may give itself any role (CREATEROLE)"])
    assert shipped.liberties(shipped.service) == []


def test_an_older_ledger_gets_two_roles(
    shipped: Roles, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """What one role had, and the guide's lines give to two, is append-only after it."""
    older = Roles(postgresql.url(postgresql.create()))
    _migrate(older.superuser)
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
        _migrate(older.owner)

        assert older.liberties(older.service) == []
        assert set(_TABLES + _TRIGGERS) <= set(older.liberties(older.owner))
    finally:
        older.disown()


def test_production_does_not_start_as_the_owner(shipped: Roles, tmp_path: Path) -> None:
    """The guard refuses, before it opens the key, who could change the audit."""
    provide_signing_key(tmp_path / "private.pem", tmp_path / "public.pem")
    guard = subprocess.run(
        [sys.executable, "-m", "api.cli", "guard"],
        cwd=ROOT,
        env={
            "USE_KMS": "true",
            "KMS_KEY_ID": "1234abcd-12ab-34cd-56ef-1234567890ab",
            "AWS_REGION": "eu-central-1",
            "NETWORKS_FILE": str(DOCKER / "networks.example.toml"),
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


def test_the_shipped_grants_are_those_of_the_guide() -> None:
    """Word for word, so that nobody gives what the tests have not seen."""
    grants = (DOCKER / "grants.sql").read_text(encoding="utf-8")

    assert _grants(grants) == _grants(GUIDE)
    assert len(_grants(grants)) == 5


def _grants(text: str) -> list[str]:
    found = re.findall(r"^ *(GRANT [^;]+;)", text, re.MULTILINE)
    return [" ".join(grant.split()) for grant in found]


def test_compose_keeps_the_owner_from_the_service() -> None:
    """API and worker wait for the grants, and are not told the owner's password."""
    compose = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    _, services = compose.split("\nservices:\n")
    parts = dict(re.findall(r"^  (\w+):\n((?:(?:    .*)?\n)+)", services, re.MULTILINE))
    told = {name for name, part in parts.items() if "owner.env" in part}
    example = (DOCKER / "owner.env.example").read_text(encoding="utf-8")
    needed = re.findall(r"getenv \w+ (\w+)", (DOCKER / "roles.sql").read_text())

    assert {"database", "upgrade", "grants", "api", "worker", "proxy"} <= parts.keys()
    assert told == {"database", "upgrade", "grants"}
    assert "hotwallet_owner@database/hotwallet" in parts["upgrade"]
    assert "PGUSER: hotwallet_owner" in parts["grants"]
    assert "./roles.sql:/docker-entrypoint-initdb.d/roles.sql:ro" in parts["database"]
    assert "./grants.sql:/grants.sql:ro" in parts["grants"]
    assert "POSTGRES_USER" not in compose
    assert {f"{name}=" for name in ("POSTGRES_PASSWORD", *needed)} <= set(
        example.splitlines()
    )
    for name, waits in {
        "grants": "upgrade",
        "api": "grants",
        "worker": "grants",
    }.items():
        assert f"{waits}: {{condition: service_completed_successfully}}" in parts[name]
