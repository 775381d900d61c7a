"""
Looks at a chain while it grows, and keeps what it saw: it must never be otherwise.

Asked by SELECT through the bare drivers; checkpoints are read and verified here, so
that nothing is shared with the service.
"""

import base64
import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from tests.crash.read_store import Connection


_SEALED = (
    "SELECT sequence, hash, id, body FROM audit_records"
    " WHERE sequence > {after} ORDER BY sequence"
)
_CHECKPOINTS = "SELECT size, note FROM audit_checkpoints"
_OLDEST = "SELECT min(id) AS id FROM audit_records WHERE sequence IS NULL"

Row = tuple[str, str, str]
"""Hash, id and body."""


@dataclass
class Watch:
    """
    What somebody saw who looked again and again.

    ``seen`` says when each record was first seen in its place, ``grew`` when the chain
    was first seen to be longer than before, by the clock of ``time.time``.
    """

    store: Connection
    records: dict[int, Row] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    grew: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Take down what is new; a file that waits for its rollback is passed over."""
        # Whoever may only read cannot roll back what a killed writer left behind.
        with suppress(sqlite3.OperationalError):
            new = _sealed(self.store, len(self.records))
            now = time.time()
            if new:
                self.records |= new
                self.seen |= {id_: now for _, id_, _ in new.values()}
                self.grew.append(now)
            # One may come behind a larger one: of two who sign, either may be first.
            for size, note in _notes(self.store).items():
                self.notes.setdefault(size, note)

    @property
    def waits(self) -> bool:
        """Whether a record has no place yet, as far as anybody can tell."""
        with suppress(sqlite3.OperationalError):
            (row,) = self.store.execute(_OLDEST)
            return row["id"] is not None
        return True

    def changes(self) -> Iterator[str]:
        """Yield a sentence for whatever is not any more as it was seen once."""
        records, notes = _sealed(self.store, 0), _notes(self.store)
        for place, row in self.records.items():
            if records.get(place) != row:
                yield f"record {place} was {row}, and is {records.get(place)}"
        for size, note in self.notes.items():
            if notes.get(size) != note:
                yield f"the checkpoint of {size} was another one"

    def lateness(self) -> list[float]:
        """Return for how many seconds each record had waited when it was seen."""
        return sorted(at - _made(id_) for id_, at in self.seen.items())


def contradictions(
    notes: list[str], hashes: Mapping[int, str], public_key: bytes
) -> Iterator[str]:
    """Yield a sentence for each checkpoint that is not ours, or not of this chain."""
    key = load_pem_public_key(public_key)
    assert isinstance(key, Ed25519PublicKey)
    for note in notes:
        text, _, signatures = note.partition("\n\n")
        origin, size, head, *_ = text.splitlines()
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        told = base64.b64decode(signatures.split()[2])
        name = hashlib.sha256(origin.encode() + b"\n\x01" + raw).digest()[:4]
        try:
            key.verify(told[4:], f"{text}\n".encode())
        except InvalidSignature:
            yield f"the checkpoint of {size} is not signed by our key"
        if told[:4] != name:
            yield f"the checkpoint of {size} names another key"
        if base64.b64decode(head).hex() != hashes.get(int(size)):
            yield f"the checkpoint of {size} has another hash than the chain"


def _sealed(store: Connection, after: int) -> dict[int, Row]:
    rows = store.execute(_SEALED.format(after=after))
    return {
        row["sequence"]: (bytes(row["hash"]).hex(), row["id"], row["body"])
        for row in rows
    }


def _notes(store: Connection) -> dict[int, str]:
    return {row["size"]: row["note"] for row in store.execute(_CHECKPOINTS)}


def _made(id_: str) -> float:
    return int(id_[3:15], 16) / 1000
