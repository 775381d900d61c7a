"""
Back a database up, lose it, and put the backup in its place.

The commands are those of ``docs/how-to/back-up.md`` and ``docs/how-to/restore.md``.
"""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Protocol

import apsw
import psycopg

from tests.fixtures.roles import Roles


class Backup(Protocol):
    """One backup of a database."""

    def take(self) -> None:
        """Back the database up, while it may be in use."""

    def lose(self) -> None:
        """Take the database away from its place, after its processes ended."""

    def restore(self) -> None:
        """Put the backup in the database's place."""

    def close(self) -> None:
        """Delete what was lost."""


class SQLiteBackup:
    """A backup of the SQLite file in *url*, in *folder*."""

    def __init__(self, url: str, folder: Path) -> None:
        self._file = Path(url.removeprefix("sqlite:///"))
        self._copy = folder / "copy.db"
        self._lost = folder / "broken"

    def take(self) -> None:
        """Copy the file as ``.backup`` of the program ``sqlite3`` does."""
        self._copy.unlink(missing_ok=True)
        with (
            closing(apsw.Connection(str(self._file))) as source,
            closing(apsw.Connection(str(self._copy))) as target,
            target.backup("main", source, "main") as backup,
        ):
            backup.step()

    def lose(self) -> None:
        """Move the file, and those of its write-ahead log."""
        self.close()  # Of an earlier restore.
        self._lost.mkdir(mode=0o700)
        for path in self._file.parent.glob(f"{self._file.name}*"):
            path.rename(self._lost / path.name)

    def restore(self) -> None:
        """Copy the backup to its place."""
        command = ("install", "-m", "600", self._copy, self._file)
        subprocess.run(command, check=True, timeout=30)

    def close(self) -> None:
        """Delete the files that were moved."""
        shutil.rmtree(self._lost, ignore_errors=True)


class PostgreSQLBackup:
    """A backup of the database of *roles* in *folder*, by PostgreSQL's *programs*."""

    def __init__(self, roles: Roles, programs: Path, folder: Path) -> None:
        self._url = roles.superuser
        self._programs = programs
        self._dump = folder / "ledger.dump"
        self._name = str(psycopg.conninfo.conninfo_to_dict(self._url)["dbname"])

    def take(self) -> None:
        """Dump the database."""
        self._run("pg_dump", "--format", "custom", "--file", self._dump, self._url)

    def lose(self) -> None:
        """Rename the database, and end the connections to it."""
        self.close()  # Of an earlier restore.
        self._administrate(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            f" WHERE datname = '{self._name}'",
            f"ALTER DATABASE {self._name} RENAME TO {self._name}_broken",
        )

    def restore(self) -> None:
        """Create the database again, and restore the dump."""
        self._run(
            "createdb",
            "--maintenance-db",
            self._url_of("postgres"),
            "--owner",
            "hotwallet_owner",
            self._name,
        )
        self._run(
            "pg_restore",
            "--dbname",
            self._url,
            "--single-transaction",
            "--exit-on-error",
            self._dump,
        )

    def close(self) -> None:
        """Drop the database that was renamed."""
        self._administrate(f"DROP DATABASE IF EXISTS {self._name}_broken WITH (FORCE)")

    def _url_of(self, database: str) -> str:
        return self._url.replace(f"/{self._name}?", f"/{database}?")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = (self._programs / program, *arguments)
        subprocess.run(command, check=True, timeout=60)

    def _administrate(self, *statements: str) -> None:
        url = self._url_of("postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())
