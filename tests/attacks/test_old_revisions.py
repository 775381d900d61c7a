"""
A thief who changes what the database says of its own schema.

That takes the owner's role, SQLite's file, or the file of a backup.  A program that
believed an older or a missing revision would give forged rows valid MACs.
"""

import os
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from api.backend_factories import open_store, upgrade_database
from backends.sql import SQLStore
from backends.sql.tables import HEAD
from signer.config.settings import Settings
from signer.errors import HotWalletError, StoreError
from tests.attacks.theft import THIEF
from tests.fixtures.ledger import WALLET, accepted, opened
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, write_mac_key


CLAIMS = {
    "the last development revision": [
        "UPDATE alembic_version SET version_num = '0012'"
    ],
    "a revision from before MACs": ["UPDATE alembic_version SET version_num = '0003'"],
    "a newer revision": ["UPDATE alembic_version SET version_num = '9999'"],
    "an empty revision": ["UPDATE alembic_version SET version_num = ''"],
    "another revision beside ours": ["INSERT INTO alembic_version VALUES ('0003')"],
    "no revision": ["DELETE FROM alembic_version"],
    "no table of revisions": ["DROP TABLE alembic_version"],
    "no revision, and few tables": ["DELETE FROM alembic_version", "DROP TABLE holds"],
}


def _forge(url: str, claim: str) -> None:
    """Forge rows without MACs in an empty ledger, which then makes *claim*."""
    with closing(open_ledger(url)) as store:
        accepted(store)
        made_active(store, key_at(WALLET))
        opened(store)
        for statement in (
            "UPDATE wallets SET first_nonce = 7, mac = NULL, version = version + 1",
            (f"UPDATE keys SET key_id = '{THIEF}', mac = NULL, version = version + 1"),
            *CLAIMS[claim],
        ):
            _execute(store, statement)


def _execute(store: SQLStore, statement: str) -> None:
    store._database.write(lambda c: c.execute(text(statement)))


def _require_nothing_trusted(store: SQLStore) -> None:
    """Require the forged rows as they were, and that no process works with them."""
    for table in ("keys", "wallets"):
        (found,) = store._database.rows(text(f"SELECT mac FROM {table}"))
        assert found == (None,)
    with pytest.raises(StoreError, match="hotwallet db upgrade"):
        store.check()
    with pytest.raises(HotWalletError):
        store.active_key()


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_owner_or_the_file(empty_url: str, claim: str) -> None:
    """The owner of the tables, or who writes SQLite's file: the ledger is refused."""
    with closing(open_ledger(empty_url)) as store:
        store.migrate()
    _forge(empty_url, claim)
    with closing(open_ledger(empty_url)) as store:
        for _ in range(2):
            with pytest.raises(
                StoreError, match=r"has (no )?revision.*restore a backup"
            ):
                store.migrate()

        _require_nothing_trusted(store)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_backups_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_url: str, claim: str
) -> None:
    """A forged backup in place of the file: the command, and a process that starts."""
    Path(sqlite_url.removeprefix("sqlite:///")).chmod(0o600)
    _forge(sqlite_url, claim)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    monkeypatch.setenv("APP_ENV", "test")
    settings = Settings.from_env(os.environ)

    with pytest.raises(HotWalletError, match="its rows could be forged"):
        upgrade_database(settings, create=False)  # As `hotwallet db upgrade`.
    with pytest.raises(HotWalletError, match="its rows could be forged"):
        open_store(settings)
    with closing(open_ledger(sqlite_url)) as store:
        _require_nothing_trusted(store)


def test_rows_of_our_revision(empty_url: str) -> None:
    """Our own revision is no reason to give a MAC to a row without one."""
    with closing(open_ledger(empty_url)) as store:
        store.migrate()
        accepted(store)
        opened(store)
        _execute(store, "UPDATE wallets SET mac = NULL, version = version + 1")

        assert store.migrate().after == HEAD
        (wallet,) = store.wallets()
        assert not wallet.is_authentic
