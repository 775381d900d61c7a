"""
What the ledger shows of the audit log, and finds records in it, the newest first.

There is no index of what records say, so a page looks at a bounded number of them.
Another program may have written a record: only one with a valid MAC is read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from api.container import Container
from api.health.readiness import unsealed_seconds
from signer.audit.checkpoints import Statement, Verify, find_newest
from signer.audit.hash_chain import (
    BATCH,
    GENESIS,
    BrokenChainError,
    ChainReader,
    parse_canonical,
)
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed, made_at
from signer.ports.audit_journal import Journal
from signer.row_macs import RowMACs


LOOKED_AT = 5_000
"""How many records one page looks at, at most."""

PAGE_SIZE = 50

_LATE = timedelta(minutes=10)
"""How much later than a younger record one may have been sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """
    What a record must have; None allows everything.

    ``event`` and ``actor`` may be a part of the name.  ``until`` does not belong to the
    time.
    """

    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    event: str | None = None
    refund_id: str | None = None

    @property
    def texts(self) -> Sequence[str]:
        """What the body of each wanted record contains."""
        return plain_texts(self.event, self.actor, self.refund_id)

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a record with *fields* is wanted, apart from its time."""
        return (
            (self.event or "") in str(fields.get("event"))
            and (self.actor or "") in str(fields.get("actor"))
            and self.refund_id in {None, refund_of(fields)}
        )


def plain_texts(*given: str | None) -> Sequence[str]:
    """Return those of *given* that JSON contains as they are."""
    return [
        each for each in given if each and each.isascii() and not {'"', "\\"} & {*each}
    ]


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """
    A record that was found.

    ``fields`` are None if its MAC is not valid: another program wrote it.
    """

    sequence: int
    id: str
    at: datetime | None
    fields: Mapping[str, Any] | None

    @property
    def text(self) -> str:
        """The fields as JSON, one per line."""
        return json.dumps(self.fields, indent=2, sort_keys=True, ensure_ascii=False)

    @property
    def refund_id(self) -> str | None:
        """The refund that the record is about, if any."""
        return refund_of(self.fields or {})


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """
    A page of records.

    ``before`` is the sequence number before which the next page begins; None if all
    records were looked at.  ``until`` is the time of the oldest one looked at.
    """

    records: Sequence[FoundRecord]
    before: int | None = None
    until: datetime | None = None


def search_records(
    journal: Journal, macs: RowMACs, wanted: RecordFilter, before: int | None = None
) -> FoundRecords:
    """Return the newest *wanted* records whose sequence number is below *before*."""
    found: list[FoundRecord] = []
    last: Sealed | None = None
    start = _start(journal, wanted.until, before)
    for number, sealed in enumerate(newest_records(journal, LOOKED_AT, start), 1):
        at = made_at(sealed.record.id)
        if wanted.since is not None and at is not None and at < wanted.since - _LATE:
            return FoundRecords(found)
        last = sealed
        if _is_in_time(at, wanted):
            record = _read(sealed, macs, wanted, at)
            if record is not None:
                found.append(record)
        if len(found) == PAGE_SIZE or number == LOOKED_AT:
            break
    if last is None or last.sequence <= 1:
        return FoundRecords(found)
    return FoundRecords(found, last.sequence, made_at(last.record.id))


def newest_records(
    journal: Journal, limit: int, before: int | None = None
) -> Iterator[Sealed]:
    """Yield up to *limit* sealed records, the newest first."""
    high = journal.head()[0] if before is None else before - 1
    low = max(0, high - limit)
    while high > low:
        start = max(low, high - BATCH)
        yield from reversed(journal.sealed(start, high - start))
        high = start


def read_fields(record: Record, macs: RowMACs) -> Mapping[str, Any] | None:
    """Return the fields of *record*; None if its MAC is not valid."""
    if not macs.is_valid(record.mac, record):
        return None
    try:
        return parse_canonical(record.body.encode())
    except InvalidInputError:
        return None


def refund_of(fields: Mapping[str, Any]) -> str | None:
    """Return the id of the refund that a record with *fields* is about."""
    details = fields.get("details")
    of_details = details.get("refund_id") if isinstance(details, dict) else None
    found = fields.get("refund_id") or of_details
    return found if isinstance(found, str) else None


def _is_in_time(at: datetime | None, wanted: RecordFilter) -> bool:
    if at is None:
        return True
    is_after = wanted.since is None or at >= wanted.since
    return is_after and (wanted.until is None or at < wanted.until)


def _read(
    sealed: Sealed, macs: RowMACs, wanted: RecordFilter, at: datetime | None
) -> FoundRecord | None:
    record = sealed.record
    if not all(text in record.body for text in wanted.texts):
        return None
    fields = read_fields(record, macs)
    if fields is not None and not wanted.fits(fields):
        return None
    return FoundRecord(sealed.sequence, record.id, at, fields)


def _start(journal: Journal, until: datetime | None, before: int | None) -> int | None:
    """Return *before*, or the sequence number where records from *until* on begin."""
    if until is None or before is not None:
        return before
    low, high = 0, journal.head()[0]
    while low < high:
        middle = (low + high + 1) // 2
        found = journal.sealed(middle - 1, 1)
        at = made_at(found[0].record.id) if found else None
        if at is None or at < until + _LATE:
            low = middle
        else:
            high = middle - 1
    return low + 1


VERIFIED = 1_000
"""How many of the newest records a page verifies."""


def verify_with(container: Container) -> Verify | None:
    """Return what verifies stored checkpoints; None if this process has no key."""
    signing = container.checkpoint_settings
    return None if signing is None else signing.verify


@dataclass(frozen=True, slots=True)
class AuditState:
    """
    How far the audit log is sealed and signed.

    ``is_signed`` is whether this process has the key that verifies checkpoints.
    ``agrees`` is whether the chain still has the hash that the newest one states; None
    without a checkpoint.
    """

    sealed: int
    unsealed: timedelta
    is_signed: bool
    statement: Statement | None
    note: str | None
    agrees: bool | None
    forged: int
    chain: "ChainState"

    @property
    def is_verified(self) -> bool:
        """Whether all that this page compares agrees, with a signed checkpoint."""
        has_signature = self.is_signed and self.agrees is True
        return has_signature and self.chain.broken_at is None and not self.forged


@dataclass(frozen=True, slots=True)
class ChainState:
    """
    What was found when the hashes and MACs of the newest records were computed again.

    ``broken_at`` is the first record that does not follow from the one before it.
    ``foreign`` counts the records without a valid MAC: another program wrote them.
    """

    records: int
    broken_at: int | None
    foreign: int


def verify_newest(journal: Journal, macs: RowMACs) -> ChainState:
    """Compute the hashes and MACs of the newest records again."""
    size = journal.head()[0]
    start = max(0, size - VERIFIED)
    first = journal.sealed(start - 1, 1) if start else ()
    reader = ChainReader(journal, start, first[0].hash if first else GENESIS)
    broken_at = None
    try:
        reader.advance()
    except BrokenChainError as e:
        broken_at = e.sequence
    newest = journal.sealed(start, VERIFIED)
    foreign = sum(not macs.is_valid(each.record.mac, each.record) for each in newest)
    return ChainState(len(newest), broken_at, foreign)


def read_audit(container: Container) -> AuditState:
    """Return the state; StoreError if the ledger does not answer."""
    store, verify = container.store, verify_with(container)
    newest = find_newest(store, verify)
    statement, agrees = newest.statement, None
    if statement is not None:
        found = store.sealed(statement.size - 1, 1)
        agrees = [each.hash for each in found] == [statement.hash]
    seconds = unsealed_seconds(store.oldest_unsealed(), container.ledger_clock)
    return AuditState(
        sealed=store.head()[0],
        unsealed=timedelta(seconds=seconds),
        is_signed=verify is not None,
        statement=statement,
        note=None if newest.checkpoint is None else newest.checkpoint.note,
        agrees=agrees,
        forged=len(newest.forged),
        chain=verify_newest(store, container.row_macs),
    )
