"""Where the verification of an export remembers the id of each record."""

import sqlite3
from collections.abc import Iterator


_CACHE_KIB = 8192

_SURROGATES = "surrogatepass"  # The id of a forged record is any text.


class RecordSequences:
    """
    Implements ``signer.audit.verify.Sequences``; its memory has a limit.

    SQLite deletes the file when the process ends.  It has about 50 bytes per record, in
    the folder of ``SQLITE_TMPDIR`` or ``TMPDIR``, else in ``/var/tmp``.
    """

    def __init__(self) -> None:
        # An empty name is a private, temporary database on disk.
        self._file = sqlite3.connect("", isolation_level=None)
        self._execute("PRAGMA journal_mode = off")
        self._execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._execute(
            "CREATE TABLE records (id BLOB PRIMARY KEY, sequence INTEGER NOT NULL)"
            " WITHOUT ROWID"
        )
        self._execute("BEGIN")  # A commit after each record takes time.

    def setdefault(self, id_: str, sequence: int) -> int:
        """Store *sequence* for *id_* unless it has one; return what it has."""
        given = _encode(id_), sequence
        added = self._execute("INSERT OR IGNORE INTO records VALUES (?, ?)", *given)
        return sequence if added.rowcount else self[id_]

    def __getitem__(self, id_: str) -> int:
        query = "SELECT sequence FROM records WHERE id = ?"
        row = self._execute(query, _encode(id_)).fetchone()
        if row is None:
            raise KeyError(id_)
        sequence: int = row[0]
        return sequence

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield each id and its sequence number, in the order of the chain."""
        for id_, sequence in self._execute("SELECT * FROM records ORDER BY sequence"):
            yield id_.decode(errors=_SURROGATES), sequence

    def _execute(self, statement: str, *parameters: bytes | int) -> sqlite3.Cursor:
        try:
            return self._file.execute(statement, parameters)
        except sqlite3.Error as e:
            raise OSError(None, f"the temporary file: {e}") from None


def _encode(id_: str) -> bytes:
    return id_.encode(errors=_SURROGATES)
