"""
Ships the sealed audit records, and the checkpoints, in the lines of an export.

::

    records/00000000000000000001.jsonl     the header, and records from number 1 on
    records/00000000000000000412.jsonl     the records after them; and so on
    checkpoints/00000000000000000411-5f2c…  each checkpoint, by its size and SHA-256

The worker that leads ships.  A name is written once, so a second one, or this one after
``kill -9``, finds what was written: if that is what the ledger has, it goes on after
it, and otherwise it raises an alert.  The row of the ledger only saves reading it all.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime, timedelta

import structlog

from api.container import Container
from api.extras.audit_shipping import open_place
from api.extras.audit_shipping.places import Place, Stored
from api.extras.audit_shipping.reader import CHECKPOINTS, segment_name
from signer.alerts import Alert, Alerts
from signer.audit.checkpointer import MAX_RECORDS, CheckpointSettings
from signer.audit.checkpoints import MAX_READ
from signer.audit.export import Raw, checkpoint_line, header_line, parse, record_lines
from signer.audit.hash_chain import BATCH, GENESIS
from signer.audit.shipping import LATE, NEVER, trusted
from signer.diagnostics import EXPLAIN, Finding
from signer.errors import (
    HotWalletError,
    InvalidInputError,
    RowNotAuthenticError,
    StaleStateError,
)
from signer.loops import Wait, repeat
from signer.model.audit_record import AuditShipping, Sealed
from signer.model.worker_row import THE_ROW
from signer.ports.audit_journal import Journal
from signer.ports.clock import Clock


SHIP_SECONDS = 5.0
"""How often records are shipped, if there are any: 720 requests an hour at most."""

_PATIENCE = timedelta(seconds=2 * SHIP_SECONDS)

_MOST_BYTES = 4 * 2**20
"""After how many bytes a segment ends; one record may be longer."""

_MOST_RECORDS = 50_000
"""How many records can fit into a segment."""

_FORGED = (
    "another program changed the row `audit_shipping`: a worker compares all records"
    " with the place again, and replaces it"
)

_LATE = Alert.SHIPPING_LATE
_SHIP = "follow docs/how-to/alarms.md, audit-shipping-late"
_LOCK = "lock the objects (docs/reference/audit.md, Shipping)"


class DifferentError(HotWalletError, code="audit-shipping-differs"):
    """The place has something else under a name than the ledger would ship."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} of the place is not what this ledger has")
        self.name = name


@dataclass(eq=False, repr=False)
class Shipper:
    """
    Ships what a *journal* has to a *place*: *checkpoints*, and records of their origin.

    *clock* is the ledger's.  *sealed_at* is ``Sealer.sealed_at`` of this process.
    While *patience* returns a time, another process leads.
    """

    journal: Journal
    place: Place
    checkpoints: CheckpointSettings
    alerts: Alerts
    clock: Clock
    _: KW_ONLY
    sealed_at: Callable[[], float | None]
    patience: Callable[[], timedelta] = timedelta
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._checkpointed: int | None = None  # The size of the last one shipped.
        self._complete_at = NEVER
        self._began_at: datetime | None = None
        self._log = structlog.get_logger("audit-shipper")

    def run(self, wait: Wait) -> None:
        """Ship until *wait* returns true; it gets the seconds until the next round."""
        event = "audit-shipping-failed"
        work = self._round
        repeat(work, wait, SHIP_SECONDS, log=self._log, event=event, at_once=True)

    def _round(self) -> None:
        if self.patience() and not self._is_left():
            self._checkpointed = None  # The process that leads ships them.
            return
        try:
            self.ship()
        except DifferentError as e:
            self.alerts.remind(Alert.SHIPPING_DIFFERS, problem=str(e))
            raise
        finally:
            self._report()

    def _is_left(self) -> bool:
        """Return whether the process that leads has left what is to be shipped."""
        row = self.journal.shipping()
        # Two may ship at once.  One that was killed seems to lead for 20 seconds.
        now = self.clock()
        return row is None or now - trusted(row.complete_at, now) > _PATIENCE

    def ship(self) -> AuditShipping:
        """
        Ship all that is sealed; return how much is shipped now.

        Raises:
            DifferentError: The place has something else.
            PlaceError: The place does not answer, or refuses.
        """
        row = self.journal.shipping()
        # Before the head is read: what was committed before this time is below it.
        complete_at = self._find_complete()
        size, _ = self.journal.head()
        shipped = self._begin(row)
        if self._checkpointed is None:
            self._checkpointed = max(0, shipped.sequence - MAX_RECORDS)
        try:
            while shipped.sequence < size:
                shipped = self._ship_segment(shipped)
                if shipped.sequence < size:  # Do not repeat a long way after a kill.
                    row = shipped = self._keep(row, shipped)
        finally:
            # Also if the place has a forged segment: they show that it is forged.
            self._ship_checkpoints(size)
        before = trusted(shipped.complete_at, self.clock())
        complete_at = max(before, complete_at or before)
        return self._keep(row, replace(shipped, complete_at=complete_at))

    def _find_complete(self) -> datetime | None:
        """Return a time before which all that was committed is sealed, if known."""
        now, began, sealed_at = self.clock(), self.timer(), self.sealed_at()
        if self.journal.oldest_unsealed() is None:
            return now
        if sealed_at is None:
            return None
        return now - timedelta(seconds=max(0.0, began - sealed_at))

    def _begin(self, row: AuditShipping | None) -> AuditShipping:
        """Return *row* if it counts for this place and this chain, or its beginning."""
        if row is not None and not row.is_authentic:
            error = RowNotAuthenticError(_FORGED)
            self.alerts.report_row(error, "audit_shipping")
        elif row is not None and row.place == self.place.url:
            found = self.journal.sealed(row.sequence - 1, 1) if row.sequence else ()
            if row.sequence and [each.hash for each in found] != [row.hash]:
                raise DifferentError(f"record {row.sequence}")
            return row
        return AuditShipping(THE_ROW, self.place.url, 0, GENESIS, NEVER)

    def _ship_segment(self, shipped: AuditShipping) -> AuditShipping:
        """Ship the next records; return how much is shipped with them."""
        after = shipped.sequence
        name = segment_name(after + 1)
        content, last = self._segment(after, BATCH)
        if not self.place.put(name, content):
            longest = max(len(content), _MOST_BYTES)
            existing = self.place.get(Stored(name), longest + 1)
            content, last = self._segment(after, _last_sequence(existing) - after)
            if content != existing:
                raise DifferentError(name)
        return replace(shipped, sequence=last.sequence, hash=last.hash)

    def _segment(self, after: int, count: int) -> tuple[bytes, Sealed]:
        """Return the lines of up to *count* records, and the last of these."""
        lines = [] if after else [header_line(self.checkpoints.origin)]
        size, last = 0, None
        for each in self.journal.sealed(after, max(1, min(count, _MOST_RECORDS))):
            of_record = record_lines(each)
            size += sum(map(len, of_record))
            if last is not None and size > _MOST_BYTES:
                break
            lines += of_record
            last = each
        if last is None:
            raise DifferentError(f"record {after + 1}")
        return b"".join(lines), last

    def _ship_checkpoints(self, size: int) -> None:
        """Ship the newest checkpoints of at most *size* records."""
        after = self._checkpointed or 0
        found = self.journal.newest_checkpoints(after, size, MAX_READ)
        for each in reversed(found):
            if self.checkpoints.verify(each) is None:
                continue  # Another program stored it.
            line = checkpoint_line(each.note)
            digest = hashlib.sha256(line).hexdigest()[:16]
            name = f"{CHECKPOINTS}{each.size:020}-{digest}"
            is_new = self.place.put(name, line)
            limit = len(line) + 1
            if not is_new and self.place.get(Stored(name), limit) != line:
                raise DifferentError(name)
            self._checkpointed = each.size

    def _keep(self, row: AuditShipping | None, shipped: AuditShipping) -> AuditShipping:
        self._complete_at = shipped.complete_at
        return self.journal.keep_shipping(row, shipped)

    def _report(self) -> None:
        """Raise the alert while records wait for too long."""
        now = self.clock()
        self._began_at = self._began_at or now
        # A process that has just begun to ship a long chain is not late.
        complete_at = trusted(self._complete_at, now)
        waited = now - max(complete_at, min(self._began_at, now))
        if waited < LATE:
            self.alerts.resolve(Alert.SHIPPING_LATE)
        else:
            seconds = int(waited.total_seconds())
            self.alerts.remind(Alert.SHIPPING_LATE, seconds=seconds)


def _last_sequence(content: bytes) -> int:
    """Return the number of the last record in a segment; 0 if it has none."""
    try:
        match parse(content.splitlines(keepends=True)[-1]):
            case Sealed(sequence) | Raw(sequence):
                return sequence
    except (InvalidInputError, IndexError):
        pass
    return 0


def record_no_place(journal: Journal) -> None:
    """Record that nothing is shipped any more, if something was."""
    row = journal.shipping()
    if row is not None and row.place:
        with suppress(StaleStateError):  # Another worker did.
            journal.keep_shipping(row, replace(row, place=""))


def check_shipping(container: Container) -> Finding:
    """Return whether the log is shipped, for the doctor."""
    place, row = open_place(container), container.store.shipping()
    if place is None and (row is None or not row.place):
        problem = "the audit log is not shipped (AUDIT_SHIP_TO)"
        is_needed = container.settings.is_production
        return Finding(problem, _SHIP if is_needed else None)
    now = container.ledger_clock()
    complete_at = NEVER if row is None else trusted(row.complete_at, now)
    if row is None or not row.is_authentic or (place and place.url != row.place):
        return Finding("nothing is shipped yet: no worker has", _SHIP, _LATE)
    waited = now - complete_at
    shipped = f"{row.sequence} records are at {row.place}"
    if waited >= LATE:
        problem = f"{shipped}; later ones wait for {int(waited.total_seconds())} s"
        return Finding(problem, EXPLAIN, _LATE)
    weakness = None if place is None else place.find_weakness()
    if weakness is not None and container.settings.is_production:
        return Finding(f"{shipped}, and {weakness}", _LOCK)
    return Finding(f"{shipped}{'' if weakness is None else f'; {weakness}'}")
