"""Events of a file: which ones count, and what a system without them says."""

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest

from backends.sql.file_events import FileEvents


def test_writes_are_reported_once(tmp_path: Path) -> None:
    """Also those of a file whose name begins with the name, such as SQLite's log."""
    path = tmp_path / "ledger.db"
    with FileEvents(path) as events:
        assert not events.wait(0)
        path.touch()
        assert events.wait(0)
        assert not events.wait(0)
        path.with_name("ledger.db-wal").write_bytes(b"frame")
        assert events.wait(0)


def test_other_files_are_not_reported(tmp_path: Path) -> None:
    """A change between theirs is."""
    path = tmp_path / "ledger.db"
    other = tmp_path / "service.log"
    with FileEvents(path) as events:
        other.write_text("line\n")
        assert not events.wait(1)
        other.write_text("line\n")
        path.touch()
        other.write_text("line\n")
        assert events.wait(0)


def test_a_replaced_and_a_deleted_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    with FileEvents(path) as events:
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(path)
        assert events.wait(0)
        path.unlink()
        assert events.wait(0)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="inotify"):
        FileEvents(tmp_path / "missing" / "ledger.db")


def test_a_system_without_inotify_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    with pytest.raises(OSError, match="no inotify"):
        FileEvents(tmp_path / "ledger.db")
