"""
Reads the audit chain while it grows, to find later changes.

It uses SELECT through the bare drivers and verifies checkpoints itself: it shares no
code with the service.
"""

import base64
import hashlib
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

from backends.sql import sqlite_dbapi
from tests.crash.read_store import Connection


_SEALED = (
    "SELECT sequence, hash, id, body FROM audit_records"
    " WHERE sequence > {after} ORDER BY sequence"
)

Row = tuple[str, str, str]
"""Hash, id and body."""


@dataclass
class AuditObserver:
    """
    What ``look`` has found: records by sequence number, and sizes by checkpoint.

    ``seen`` has the time at which each record was first found sealed, and ``grew`` the
    times at which the chain was found longer, by ``time.time``.
    """

    store: Connection
    records: dict[int, Row] = field(default_factory=dict)
    checkpoints: dict[str, int] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    grew: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Read what is new."""
        # A reader cannot roll back what a killed writer left in an SQLite file.
        with suppress(sqlite_dbapi.OperationalError):
            new = _read_sealed(self.store, len(self.records))
            now = time.time()
            if new:
                self.records |= new
                self.seen |= {id_: now for _, id_, _ in new.values()}
                self.grew.append(now)
            # Of two sealers, the one with the smaller size may be later.
            for note, size in _read_checkpoints(self.store).items():
                self.checkpoints.setdefault(note, size)

    def has_unsealed(self) -> bool:
        """Whether a record may still wait for its sequence number."""
        query = "SELECT count(*) AS count FROM audit_records WHERE sequence IS NULL"
        with suppress(sqlite_dbapi.OperationalError):
            (row,) = self.store.execute(query)
            return bool(row["count"])
        return True

    def changes(self) -> Iterator[str]:
        """Yield a sentence for each record or checkpoint that is not as it was."""
        records = _read_sealed(self.store, 0)
        checkpoints = _read_checkpoints(self.store)
        for sequence, row in self.records.items():
            if records.get(sequence) != row:
                yield f"record {sequence} was {row}, and is {records.get(sequence)}"
        for note, size in self.checkpoints.items():
            if checkpoints.get(note) != size:
                yield f"the checkpoint of {size} has changed"


def invalid_checkpoints(
    notes: list[str], hashes: Mapping[int, str], public_key: bytes
) -> Iterator[str]:
    """Yield a sentence for each note that is not of *public_key* and this chain."""
    key = load_pem_public_key(public_key)
    assert isinstance(key, Ed25519PublicKey)
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    for note in notes:
        text, _, signatures = note.partition("\n\n")
        origin, size, head, *_ = text.splitlines()
        signature = base64.b64decode(signatures.split()[2])
        key_id = hashlib.sha256(origin.encode() + b"\n\x01" + raw).digest()[:4]
        try:
            key.verify(signature[4:], f"{text}\n".encode())
        except InvalidSignature:
            yield f"the checkpoint of {size} is not signed by our key"
        if signature[:4] != key_id:
            yield f"the checkpoint of {size} names another key"
        if base64.b64decode(head).hex() != hashes.get(int(size)):
            yield f"the checkpoint of {size} has another hash than the chain"


def _read_sealed(store: Connection, after: int) -> dict[int, Row]:
    rows = store.execute(_SEALED.format(after=after))
    return {
        row["sequence"]: (bytes(row["hash"]).hex(), row["id"], row["body"])
        for row in rows
    }


def _read_checkpoints(store: Connection) -> dict[str, int]:
    rows = store.execute("SELECT size, note FROM audit_checkpoints")
    return {row["note"]: row["size"] for row in rows}
