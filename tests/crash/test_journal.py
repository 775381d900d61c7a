"""The client's journal survives whatever happens to the client."""

from pathlib import Path

from tests.crash.journal import Journal, read_journal


def test_keeps_what_was_written(tmp_path: Path) -> None:
    """Entries are read in their order, those of an earlier life first."""
    for key in ("a", "b"):
        with Journal(tmp_path / "j") as journal:
            journal.write("asked", key=key)

    entries = list(read_journal(tmp_path / "j"))

    assert [(e["event"], e["key"]) for e in entries] == [("asked", "a"), ("asked", "b")]
    assert entries[0]["at"] <= entries[1]["at"]


def test_does_not_believe_half_a_line(tmp_path: Path) -> None:
    """A line that its writer did not live to finish does not count."""
    with Journal(tmp_path / "j") as journal:
        journal.write("asked", key="a")
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"event": "answe')

    assert len(list(read_journal(tmp_path / "j"))) == 1
