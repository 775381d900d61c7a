"""
The hash chain: the hash of a record covers the record and the hash before it.

::

    hash 0 = SHA-256("hotwallet audit chain 1: genesis")
    hash n = SHA-256(  "hotwallet audit chain 1: record"
                     ‖ hash n-1             32 bytes
                     ‖ n                     8 bytes, big-endian
                     ‖ length of the id      8 bytes, big-endian
                     ‖ id                    UTF-8
                     ‖ body                  UTF-8, canonical JSON (RFC 8785))

Quoted texts are ASCII, without the quotes.  The length of every part but the last is
fixed or included, so that no two records have the same bytes.  The labels separate
these hashes from other uses of SHA-256.
"""

import hashlib
from collections.abc import Iterable

from signer.model.audit_record import Record, Sealed


GENESIS = hashlib.sha256(b"hotwallet audit chain 1: genesis").digest()
"""The hash before the first record."""

LENGTH_BYTES = 8
"""How many bytes the length of an id has."""

_RECORD = b"hotwallet audit chain 1: record"


def content(record: Record) -> bytes:
    """Return the bytes of *record* that its hash covers: id with length, and body."""
    name = record.id.encode()
    return len(name).to_bytes(LENGTH_BYTES, "big") + name + record.body.encode()


def link(previous: bytes, sequence: int, record: Record) -> bytes:
    """Return the 32-byte hash of *record* number *sequence* after *previous*."""
    place = previous + sequence.to_bytes(8, "big")
    return hashlib.sha256(_RECORD + place + content(record)).digest()


def sealed(size: int, head: bytes, records: Iterable[Record]) -> list[Sealed]:
    """Append *records* to a chain of *size* records that ends with the hash *head*."""
    placed: list[Sealed] = []
    for sequence, record in enumerate(records, size + 1):
        head = link(head, sequence, record)
        placed.append(Sealed(sequence, head, record))
    return placed
