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

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from signer.errors import HotWalletError, InvalidInputError
from signer.model.audit_record import MAX_INTEGER, STANDARD_JSON, Record, Sealed
from signer.ports.audit_journal import Journal
from signer.strict_json import is_deeper


if TYPE_CHECKING:  # The account of a library writes records, and verifies none.
    from signer.audit.checkpoints import Statement


MAX_DEPTH = 500
"""How many levels may be nested: far more than any record has."""

_ID = re.compile(r"au_[0-9a-f]{32}")


def parse_canonical(text: bytes) -> Mapping[str, Any]:
    """Parse *text* as a JSON object in the form of RFC 8785."""
    fields = _parse(text, MAX_DEPTH)
    if fields is None:
        raise InvalidInputError("the line is not canonical JSON")
    return fields


def is_record_id(text: str) -> bool:
    """Return whether *text* has the form of ``new_record_id``."""
    return _ID.fullmatch(text) is not None


def is_canonical(record: Record) -> bool:
    """
    Return whether *record* has the form of all records of this service.

    That is an id of ``new_record_id``, and an object in canonical JSON as its body.
    Another program that can write to the database may insert any texts.
    """
    # A line of an export has one level more than the body in it.
    body = record.body.encode(errors="surrogatepass")
    return is_record_id(record.id) and _parse(body, MAX_DEPTH - 1) is not None


def _parse(text: bytes, max_depth: int) -> Mapping[str, Any] | None:
    try:
        _require_shallow(text, max_depth)
        fields = _parse_ascii(text)
        if fields is None:
            import rfc8785  # noqa: PLC0415

            fields = json.loads(text)
            if rfc8785.dumps(fields) != text:
                return None
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _require_shallow(text: bytes, max_depth: int) -> None:
    """Require that *text* cannot exhaust the C stack of the JSON parser."""
    # Counting is fast, and enough for nearly all records.
    brackets = text.count(b"[") + text.count(b"{")
    if brackets > max_depth and is_deeper(text.decode(), max_depth):
        raise ValueError("too many levels")


def _parse_ascii(text: bytes) -> Any:
    """Parse *text* if the standard library writes it the same way, else None."""
    if not text.isascii():
        return None
    try:
        fields = _READER.decode(text.decode())
    except ValueError:
        return None
    return fields if STANDARD_JSON.encode(fields).encode() == text else None


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) > MAX_INTEGER:
        raise ValueError("an integer beyond 2**53 - 1")
    return number


def _no_float(text: str) -> NoReturn:
    raise ValueError("a fraction")


_READER = json.JSONDecoder(
    parse_int=_integer, parse_float=_no_float, parse_constant=_no_float
)


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


BATCH = 1000
"""How many records are read at once."""


class BrokenChainError(HotWalletError, code="audit-chain-broken"):
    """The stored chain was changed; *sequence* is the first record that shows it."""

    def __init__(self, message: str, *, sequence: int) -> None:
        super().__init__(f"audit record {sequence} {message}")
        self.sequence = sequence


def batches(journal: Journal, after: int = 0) -> Iterator[Sequence[Sealed]]:
    """Yield the sealed records after the sequence number *after*, in order."""
    while batch := journal.sealed(after, BATCH):
        yield batch
        after = batch[-1].sequence


def require_agreement(journal: Journal, statement: Statement) -> None:
    """Raise ``BrokenChainError`` if the stored chain contradicts *statement*."""
    found = journal.sealed(statement.size - 1, 1)
    if not found or found[0].sequence != statement.size:
        raise BrokenChainError(
            "is covered by a checkpoint but missing", sequence=statement.size
        )
    if found[0].hash != statement.hash:
        raise BrokenChainError(
            "differs from the checkpoint that covers it", sequence=statement.size
        )


class ChainReader:
    """
    Verifies the stored chain link by link, in several steps if needed.

    ``size`` is the number of verified records, ``head`` the hash of the last one.  It
    starts after a chain of *size* records that ends with the hash *head*.
    """

    def __init__(self, journal: Journal, size: int = 0, head: bytes = GENESIS) -> None:
        self._journal = journal
        self.size = size
        self.head = head

    def advance(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """
        Verify records up to the end of the chain; return whether the end was reached.

        *should_stop* is asked after each batch.  A record that does not follow from the
        one before it raises ``BrokenChainError``.
        """
        for batch in batches(self._journal, self.size):
            for sealed in batch:
                self._verify(sealed)
            if len(batch) == BATCH and should_stop():
                return False
        return True

    def _verify(self, sealed: Sealed) -> None:
        expected = self.size + 1
        if sealed.sequence != expected:
            raise BrokenChainError("is missing", sequence=expected)
        head = link(self.head, expected, sealed.record)
        if head != sealed.hash:
            raise BrokenChainError("was changed", sequence=expected)
        self.size, self.head = expected, head


EVENT = "audit-records-forged"
"""The event of the record that declares others forged."""

FIELD = "id_sha256"
"""The detail that lists the declared records: the SHA-256 of each id, in hex."""

_QUOTED = f'"{EVENT}"'

_MAX_DEPTH = 64


def hash_id(id_: str) -> str:
    """
    Return the SHA-256 of a record's id, in hex.

    The id of a forged record is any text: it could look like several ids, or like a
    secret that is redacted.
    """
    return hashlib.sha256(id_.encode(errors="surrogatepass")).hexdigest()


def signed_work(fields: Mapping[str, Any]) -> str | None:
    """
    Return what a record of a signature is about: a refund, or a batch by its digest.

    Their intent may precede the digest that is signed.  None: it is about the digest.
    """
    refund_id, details = fields.get("refund_id"), fields.get("details")
    if refund_id is not None:
        return str(refund_id)
    composition = details.get("composition") if isinstance(details, dict) else None
    return None if composition is None else f"batch {composition}"


def read_fields(record: Record) -> Mapping[str, Any]:
    """Return the fields of *record*, or none if its body is no JSON object."""
    if is_deeper(record.body, _MAX_DEPTH):
        return {}
    try:
        fields = record.fields
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def declared_by(record: Record) -> frozenset[str]:
    """Return the hashes of the ids that *record*, if canonical, declares forged."""
    if _QUOTED not in record.body or not is_canonical(record):
        return frozenset()
    match read_fields(record):
        case {"event": event, "details": {"id_sha256": list(hashes)}} if event == EVENT:
            return frozenset(map(str, hashes))
    return frozenset()


class Forgeries:
    """
    Finds the records of a chain that are declared forged, once all were added.

    No record can be deleted, so a forged one is sealed like the others, and a later
    record of the sealer declares it.  A forged record may look like a declaration
    itself; the sealer's declaration after it takes away its effect.
    """

    def __init__(self) -> None:
        self._declarations = list[tuple[str, frozenset[str]]]()

    def add(self, record: Record) -> None:
        if hashes := declared_by(record):
            self._declarations.append((record.id, hashes))

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield *records* and add each."""
        for record in records:
            self.add(record)
            yield record

    def declarers(self) -> Mapping[str, str]:
        """
        Return, by the hash of each forged record's id, the id of its declaration.

        The sealer's declarations come after what they declare.  So the last one is
        genuine, and from the end to the start each one shows which earlier ones are.
        Of several declarations of a record, the first one is returned.
        """
        forged = dict[str, str]()
        for declaration, hashes in reversed(self._declarations):
            if hash_id(declaration) not in forged:
                forged.update(dict.fromkeys(hashes, declaration))
        return forged

    def without_forged(self, records: Iterable[Record]) -> list[Record]:
        """Return the *records* that no effective declaration names."""
        forged = self.declarers()
        if not forged:
            return list(records)
        return [each for each in records if hash_id(each.id) not in forged]


def genuine(records: Iterable[Record], events: Collection[str]) -> list[Record]:
    """
    Return the records of *events* in the chain *records* that are not forged.

    Other records are not kept in memory: a chain may have millions.
    """
    forgeries = Forgeries()
    found = [each for each in forgeries.watch(records) if _event(each) in events]
    return forgeries.without_forged(found)


def _event(record: Record) -> str:
    return str(read_fields(record).get("event"))
