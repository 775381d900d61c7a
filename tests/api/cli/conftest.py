"""Fixtures for the tests of ``hotwallet audit``."""

from pathlib import Path

import pytest

from backends.sql.audit import AuditTables
from backends.sql.database import Database
from tests.api.cli.audit_commands import LINKS
from tests.support.audit import KEY, exported


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory with an export, its public key, and a signing key."""
    monkeypatch.chdir(tmp_path)
    Path("export").write_bytes(b"".join(exported(LINKS, [2])))
    Path("key.pub.pem").write_bytes(KEY.public_pem())
    Path("key").write_bytes(KEY.private_pem())
    Path("key").chmod(0o600)
    return tmp_path


@pytest.fixture
def journal(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AuditTables:
    """Return the journal that the commands open."""
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("AUDIT_ORIGIN", "tests")
    return AuditTables(Database(sqlite_url, pool_size=1, timeout=5.0))
