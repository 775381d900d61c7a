"""
Finds audit records, the newest first.

There is no index of what records say, so a page looks at a bounded number of them.
Another program may have written a record: only one with a valid MAC is read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from signer.audit.chain_reader import BATCH
from signer.audit.hash_chain import parse_canonical
from signer.audit.sealing_monitor import made_at
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, Sealed
from signer.ports.audit_journal import Journal
from signer.row_macs import RowMACs


LOOKED_AT = 5_000
"""How many records one page looks at, at most."""

PAGE_SIZE = 50

_LATE = timedelta(minutes=10)
"""How much later than a younger record one may have been sealed."""


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """
    What a record must have; None allows everything.

    ``event`` and ``actor`` may be a part of the name.  ``until`` does not belong to the
    time.
    """

    event: str | None = None
    actor: str | None = None
    refund_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

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


class RecordCriteria(Protocol):
    """Which records a search finds; as ``RecordFilter``."""

    @property
    def since(self) -> datetime | None: ...

    @property
    def until(self) -> datetime | None: ...

    @property
    def texts(self) -> Sequence[str]: ...

    def fits(self, fields: Mapping[str, Any]) -> bool: ...


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
    journal: Journal, macs: RowMACs, wanted: RecordCriteria, before: int | None = None
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


def _is_in_time(at: datetime | None, wanted: RecordCriteria) -> bool:
    if at is None:
        return True
    is_after = wanted.since is None or at >= wanted.since
    return is_after and (wanted.until is None or at < wanted.until)


def _read(
    sealed: Sealed, macs: RowMACs, wanted: RecordCriteria, at: datetime | None
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
