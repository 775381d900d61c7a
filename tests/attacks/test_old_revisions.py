"""
A thief who makes the database claim a revision from before rows had MACs.

That takes the owner's role, SQLite's file, or the file of a backup.  An upgrade that
trusted such rows would give forged ones valid MACs.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from api.backend_factories import open_store, upgrade_database
from backends.sql import SQLStore
from backends.sql.schema import HEAD
from signer.config.settings import Settings
from signer.errors import HotWalletError, StoreError
from tests.support.ledgers import open_ledger, write_mac_key
from tests.support.theft import THIEF


AT = "2026-11-26T00:00:00.000000+00:00"

COLUMNS = (
    "idempotency_key, fingerprint, reference, payment_session_id, network, chain_id,"
    " token, token_address, decimals, recipient, amount, status, created_at,"
    " updated_at, version"
)
KEY_COLUMNS = "backend, key_id, address, state, created_at, updated_at, epoch, version"


def _claim(url: str, revision: str) -> None:
    """Replace an empty ledger by one of *revision* with forged rows."""
    config = Config()
    config.set_main_option("script_location", "backends.sql:migrations")
    tenant = "client" if revision == "0003" else "tenant"
    amount = f"'{7:078d}'" if url.startswith("sqlite") else "7"
    refund = (
        f"'rf_forged', 'gateway', 'k', 'f', 'r', 's', 'local', 7, 'TUSD', '{THIEF}', 6,"
        f" '{THIEF}', {amount}, 'queued', '{AT}', '{AT}', 0"
    )

    key = f"'b', 'k', '{THIEF}', 'active', '{AT}', '{AT}', 1, 0"

    def replace(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in (
            f"INSERT INTO refunds (id, {tenant}, {COLUMNS}) VALUES ({refund})",
            f"INSERT INTO keys ({KEY_COLUMNS}) VALUES ({key})",
            (
                "INSERT INTO wallets (chain_id, sender, first_nonce, version)"
                f" VALUES (7, '{THIEF}', 0, 0)"
            ),
        ):
            connection.execute(text(statement))

    with closing(open_ledger(url)) as ledger:
        ledger._database.migration(replace, timeout=5)


def _require_nothing_trusted(store: SQLStore, revision: str) -> None:
    """Require the forged rows as they were, and that no process works with them."""
    (found,) = store._database.rows(text("SELECT version_num FROM alembic_version"))
    (refund,) = store._database.rows(text("SELECT * FROM refunds"))
    (key,) = store._database.rows(text("SELECT * FROM keys"))

    assert found == (revision,)
    assert ("mac" in refund._fields and refund.mac) is not True
    assert ("mac" in key._fields and key.mac) in (False, None)
    with pytest.raises(StoreError, match="could be forged"):
        store.check()
    with pytest.raises(HotWalletError):
        store.active_key()


@pytest.mark.parametrize("revision", ["0003", "0004"])
def test_the_owner_or_the_file(empty_url: str, revision: str) -> None:
    """The owner of the tables, or who writes SQLite's file: the upgrade is refused."""
    _claim(empty_url, revision)
    with closing(open_ledger(empty_url)) as store:
        with pytest.raises(StoreError, match=r"could be forged.*restore a backup"):
            store.migrate()

        _require_nothing_trusted(store, revision)


def _upgrade(settings: Settings) -> None:
    """What `hotwallet db upgrade` does."""
    upgrade_database(settings, create=False)


@pytest.mark.parametrize("start", [_upgrade, open_store])
@pytest.mark.parametrize("revision", ["0003", "0004"])
def test_a_backups_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    revision: str,
    start: Callable[[Settings], object],
) -> None:
    """A forged backup in place of the file: the command, and a process that starts."""
    backup, restored = tmp_path / "backup.db", tmp_path / "hotwallet.db"
    _claim(f"sqlite:///{backup}", revision)
    shutil.copy(backup, restored)
    restored.chmod(0o600)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{restored}")
    monkeypatch.setenv("MAC_KEY_FILE", str(write_mac_key(tmp_path)))
    monkeypatch.setenv("APP_ENV", "test")

    with pytest.raises(HotWalletError, match="could be forged"):
        start(Settings.from_env(os.environ))
    with closing(open_ledger(f"sqlite:///{restored}")) as store:
        _require_nothing_trusted(store, revision)


def test_rows_of_a_later_revision(empty_url: str) -> None:
    """An upgrade from a revision with MACs gives none to a row without one."""
    _claim(empty_url, "0005")
    with closing(open_ledger(empty_url)) as store:
        with pytest.raises(HotWalletError, match="no valid MAC"):
            store.migrate()
        store._database.write(lambda c: c.execute(text("DELETE FROM keys")))

        assert store.migrate().after == HEAD
        (refund,) = store.list("gateway").refunds
        (wallet,) = store.wallets()
        assert (refund.mac, wallet.is_authentic) == (None, False)
