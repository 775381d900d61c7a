"""
When a checkpoint is due, and from when on nobody can call it a little late any more.

Who signs and who verifies hold to one rule: a chain for which nobody has signed in a
long time is what a chain whose later checkpoints were taken away looks like as well.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from signer.audit.sealing_monitor import made_at
from signer.model.audit_record import Record
from signer.ports import Journal


EVERY = timedelta(seconds=60)
"""How old the last checkpoint is when new records make the next one due."""

RECORDS = 1000
"""How many records behind the last checkpoint make one due at once."""

PATIENCE = timedelta(minutes=2)
"""For how long one may be due: looks, walks and restarts take their time."""

MOST = 3 * RECORDS
"""How many records may be without one: those of a burst are sealed before a look."""

SETUP = timedelta(hours=1)
"""For how long the first one may be due: guard and doctor come before who signs."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Unsigned:
    """The records behind the last checkpoint, which has been due for *waited*."""

    first: int
    records: int
    waited: timedelta

    @property
    def is_overdue(self) -> bool:
        """Whether whoever signs would not have left so much without a checkpoint."""
        patience = PATIENCE if self.first > 1 else SETUP
        return self.records > MOST or self.waited > patience


class Tail:
    """The records behind the checkpoint of *size* records, as somebody reads on."""

    def __init__(self, size: int = 0, signed_at: datetime | None = None) -> None:
        self._size = size
        self._signed_at = signed_at
        self._records = 0
        self._oldest, self._newest = _END, _BEGINNING

    def add(self, record: Record) -> None:
        """Take in the next record."""
        made = made_at(record.id)
        self._records += 1
        # A name that holds no time is none that we gave, and excuses nothing.
        self._oldest = min(self._oldest, made or _BEGINNING)
        self._newest = max(self._newest, made or _END)

    def unsigned(self) -> Unsigned:
        """
        Return what is unsigned at the time of the newest record.

        By the records alone: what is good today is good in ten years.
        """
        return self.unsigned_at(self._newest)

    def unsigned_at(self, now: datetime, records: int | None = None) -> Unsigned:
        """Return what is unsigned *now*; *records*, if there are more than these."""
        if self._records == 0:
            return Unsigned(self._size + 1, 0, timedelta(0))
        # Nothing is added to a time, which may be a forger's, and the last there is.
        waited = now - self._oldest
        if self._signed_at is not None:
            waited = min(waited, now - self._signed_at - EVERY)
        return Unsigned(self._size + 1, records or self._records, waited)


def unsigned(
    journal: Journal, size: int, signed_at: datetime | None, now: datetime
) -> Unsigned:
    """Return what is stored behind the checkpoint of *size* records, 0 for none."""
    tail = Tail(size, signed_at)
    for each in journal.sealed(size, RECORDS):
        tail.add(each.record)
    return tail.unsigned_at(now, journal.head()[0] - size)
