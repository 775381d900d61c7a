"""The client's journal survives the death of the client."""

from pathlib import Path

from tests.crash.journal import Journal, read_journal


def test_entries_are_read_in_order(tmp_path: Path) -> None:
    """Entries of an earlier process come first."""
    for key in ("a", "b"):
        with Journal(tmp_path / "j") as journal:
            journal.write("asked", key=key)

    entries = list(read_journal(tmp_path / "j"))

    assert [(e["event"], e["key"]) for e in entries] == [("asked", "a"), ("asked", "b")]
    assert entries[0]["at"] <= entries[1]["at"]


def test_an_unfinished_line_does_not_count(tmp_path: Path) -> None:
    """Its writer was killed before it acted on it."""
    with Journal(tmp_path / "j") as journal:
        journal.write("asked", key="a")
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"event": "answe')

    assert len(list(read_journal(tmp_path / "j"))) == 1
