"""
When a checkpoint is due, and when it is overdue.

The checkpointer and ``verify`` use the same rule: an attacker who removes the
later checkpoints of a chain leaves a long run of records without one.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from signer.audit.hash_chain import is_canonical
from signer.audit.sealing_monitor import made_at
from signer.model.audit_record import Record
from signer.ports.audit_journal import Journal


INTERVAL = timedelta(seconds=60)
"""A checkpoint is due when there are new records and the last one is this old."""

RECORDS = 1000
"""This many records without a checkpoint make one due at once."""

GRACE = timedelta(minutes=2)
"""How long a checkpoint may be due: verification and restarts take time."""

MAX_RECORDS = 3 * RECORDS
"""How many records may be without a checkpoint: a burst is sealed before it is."""

FIRST_GRACE = timedelta(hours=1)
"""How long the first one may be due: guard and doctor run before any checkpointer."""

_MIN_TIME = datetime.min.replace(tzinfo=UTC)
_MAX_TIME = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Unsigned:
    """
    How many ``records`` follow the last checkpoint, from sequence number ``first``.

    ``waited`` is how long a checkpoint has been due.
    """

    first: int
    records: int
    waited: timedelta

    @property
    def is_overdue(self) -> bool:
        """Whether a running checkpointer would have signed these records before now."""
        grace = GRACE if self.first > 1 else FIRST_GRACE
        return self.records > MAX_RECORDS or self.waited > grace


class UnsignedTail:
    """Collects the records after the checkpoint of *size* records."""

    def __init__(self, size: int = 0, signed_at: datetime | None = None) -> None:
        self._size = size
        self._signed_at = signed_at
        self._records = 0
        self._oldest, self._newest = _MAX_TIME, _MIN_TIME

    def add(self, record: Record, *, is_ours: bool = True) -> None:
        """Add the next record; the id of one that is not ours proves no time."""
        self._records += 1
        if not is_ours:
            return
        made = made_at(record.id)
        # An id without a time was not made by us: count it as overdue.
        self._oldest = min(self._oldest, made or _MIN_TIME)
        self._newest = max(self._newest, made or _MAX_TIME)

    def at_newest(self) -> Unsigned:
        """Return what is unsigned at the time of the newest record."""
        # It depends on the records only, so an export verifies in ten years as today.
        return self.at(self._newest)

    def at(self, now: datetime, records: int | None = None) -> Unsigned:
        """Return what is unsigned at *now*; *records* is their number if not added."""
        if self._records == 0:
            return Unsigned(self._size + 1, 0, timedelta(0))
        # Only subtract: a forged time may be the largest one, and adding overflows.
        waited = now - self._oldest if self._oldest < _MAX_TIME else timedelta(0)
        if self._signed_at is not None:
            waited = min(waited, now - self._signed_at - INTERVAL)
        return Unsigned(self._size + 1, records or self._records, waited)


def find_unsigned(
    journal: Journal, size: int, signed_at: datetime | None, now: datetime
) -> Unsigned:
    """Return the stored records after the checkpoint of *size* records (0: none)."""
    tail = UnsignedTail(size, signed_at)
    for each in journal.sealed(size, RECORDS):
        tail.add(each.record, is_ours=is_canonical(each.record))
    return tail.at(now, journal.head()[0] - size)
