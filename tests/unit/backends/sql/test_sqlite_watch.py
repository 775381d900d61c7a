"""Watches of a SQLite file: locks, and files that are missing or replaced."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from backends.sql import SQLStore, sqlite_dbapi, sqlite_watch
from backends.sql.sqlite import SQLiteFile
from backends.sql.sqlite_watch import UNREADABLE_SECONDS, SQLiteWatches, Version
from signer.ports.refund_store import Topic
from tests.fixtures.ledger import accepted
from tests.support.ledgers import copy_ledger, open_ledger


LONG = 20.0
SOON = 5.0


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_an_unreadable_file_ends_the_wait(sqlite_url: str) -> None:
    """The caller reads the row, and gets the error; later changes are seen."""
    path = _path(sqlite_url)
    kept = path.rename(path.with_suffix(".away"))
    with closing(open_ledger(sqlite_url)) as store, store.watch(Topic.MOVED) as watch:
        start = time.monotonic()
        assert watch.wait(LONG)
        assert watch.wait(LONG)
        passed = time.monotonic() - start
        assert watch.wait(0)

        kept.rename(path)
        assert watch.wait(LONG)
        assert not watch.wait(0.1)
        accepted(store)
        assert watch.wait(LONG)

    assert UNREADABLE_SECONDS < passed < SOON


def test_a_file_that_is_not_a_database_ends_the_wait(sqlite_url: str) -> None:
    """It is read again each time, for it may be replaced."""
    with closing(open_ledger(sqlite_url)) as store, store.watch(Topic.MOVED) as watch:
        _path(sqlite_url).write_bytes(b"not a database" * 1000)
        start = time.monotonic()
        assert watch.wait(LONG)
        assert watch.wait(LONG)

    assert time.monotonic() - start < SOON


def test_a_replaced_file_ends_the_wait(sqlite_url: str, sqlite_store: SQLStore) -> None:
    """The caller reads, and gets the error, for as long as the file is another one."""
    path = _path(sqlite_url)
    backup = copy_ledger(path, path.with_suffix(".backup"))
    with sqlite_store.watch(Topic.MOVED) as watch:
        assert not watch.wait(0)
        backup.replace(path)
        assert watch.wait(LONG)
        assert watch.wait(LONG)


def test_a_writer_that_commits_is_no_change_yet(
    sqlite_url: str, sqlite_store: SQLStore
) -> None:
    """While another connection locks the file, the wait goes on; then it ends."""
    with (
        closing(sqlite_dbapi.connect(_path(sqlite_url))) as writer,
        sqlite_store.watch(Topic.MOVED) as watch,
        ThreadPoolExecutor(1) as threads,
    ):
        assert not watch.wait(0)
        writer.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        assert not watch.wait(0.5)
        assert time.monotonic() - start > 0.4
        waiting = threads.submit(watch.wait, LONG)
        writer.execute("UPDATE alembic_version SET version_num = version_num")
        writer.execute("COMMIT")
        assert waiting.result()

    assert time.monotonic() - start < SOON


def test_a_poll_delays_no_writer(sqlite_url: str, sqlite_store: SQLStore) -> None:
    """A watch holds no lock between two polls."""
    with (
        closing(sqlite_dbapi.connect(_path(sqlite_url), timeout=0)) as writer,
        sqlite_store.watch(Topic.MOVED) as watch,
    ):
        assert not watch.wait(0)
        writer.execute("UPDATE alembic_version SET version_num = version_num")
        writer.commit()
        assert watch.wait(0)


def test_watches_share_one_connection(sqlite_store: SQLStore) -> None:
    """To begin a watch opens no file after the first one."""
    watches = sqlite_store._database._process().watches
    with sqlite_store.watch(Topic.MOVED), sqlite_store.watch(Topic.ACCEPTED):
        pass
    with sqlite_store.watch(Topic.MOVED):
        pass

    assert vars(watches)["_opened"] == 1


class CountingWatches(SQLiteWatches):
    """Counts its polls."""

    polls = 0

    def version(self) -> Version | None:
        self.polls += 1
        return super().version()


def test_a_quiet_file_is_polled_rarely(sqlite_url: str) -> None:
    """Nor is it for files beside it, such as logs."""
    watches = CountingWatches(SQLiteFile(_path(sqlite_url)))
    log = _path(sqlite_url).parent / "service.log"
    with closing(watches), watches.watch(Topic.ACCEPTED) as watch:
        assert not watch.wait(0.1)  # A commit could have been in progress.
        before = watches.polls
        with log.open("a") as lines:
            for _ in range(50):
                lines.write("line\n")
                lines.flush()
                assert not watch.wait(0.01)
        # At the beginning of each call, after each line, and at its end.
        assert watches.polls - before < 5 * 50


def test_without_events_of_the_system_it_polls(
    sqlite_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another system than Linux has no inotify, and a user only so many watches."""
    monkeypatch.setattr(sqlite_watch, "FileEvents", _no_events)
    with sqlite_store.watch(Topic.ACCEPTED) as watch:
        assert not watch.wait(0.2)
        accepted(sqlite_store)
        assert watch.wait(LONG)


def _no_events(_path: Path) -> NoReturn:
    raise OSError("no inotify")
