"""``hotwallet db upgrade`` reports what it did, and where."""

from pathlib import Path

import pytest

from backends.sql.tables import HEAD
from tests.api.commands import Run
from tests.support.ledgers import write_mac_key


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configure production with a SQLite file that does not exist; return its path."""
    path = tmp_path / "ledger" / "hotwallet.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    return path


def test_a_new_ledger_needs_the_mac_key(
    hotwallet: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its register of stops and blocks has a MAC: without one, nothing is signed."""
    monkeypatch.delenv("MAC_KEY_FILE")
    refused = hotwallet("db", "upgrade", "--create")

    assert refused.status == 78
    assert "mac-key-missing" in refused.err


def test_production_creates_a_ledger_only_if_asked(hotwallet: Run, path: Path) -> None:
    """In a wrong folder the command fails and creates nothing."""
    refused = hotwallet("db", "upgrade")

    assert refused.status == 1
    assert f"there is no ledger at {path}" in refused.err
    assert "hotwallet db upgrade --create" in refused.err
    assert not path.parent.exists()


def test_production_creates_a_ledger_if_asked(hotwallet: Run, path: Path) -> None:
    """With --create the ledger is created once, and is then up to date."""
    created = hotwallet("db", "upgrade", "--create")
    unchanged = hotwallet("db", "upgrade")

    assert created.out == f"created a new ledger in {path}, revision {HEAD}\n"
    assert unchanged.out == f"{path} is already up to date, revision {HEAD}\n"


def test_elsewhere_a_ledger_is_created(
    hotwallet: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside production no option is needed; --json prints one object."""
    monkeypatch.setenv("APP_ENV", "test")

    assert hotwallet("db", "upgrade", "--json").json == {
        "action": "created",
        "path": str(path),
        "from": None,
        "to": HEAD,
    }


@pytest.mark.parametrize("app_env", ["production", "test"])
def test_postgresql_needs_no_option(
    hotwallet: Run,
    empty_postgresql_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    app_env: str,
) -> None:
    """An administrator creates the database, so a wrong path cannot create one."""
    monkeypatch.setenv("DATABASE_URL", empty_postgresql_url)
    monkeypatch.setenv("APP_ENV", app_env)
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    created = hotwallet("db", "upgrade")

    assert created.out == (
        "created a new ledger in the PostgreSQL database of DATABASE_URL,"
        f" revision {HEAD}\n"
    )
    assert hotwallet("db", "upgrade", "--json").json == {
        "action": "unchanged",
        "path": None,
        "from": HEAD,
        "to": HEAD,
    }
