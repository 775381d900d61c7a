"""Signs checkpoints of the stored chain, whose every link it verifies in steps."""

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta

from signer.alerts import Alert, Alerts
from signer.audit.checkpoints import (
    CheckpointKey,
    NewestCheckpoints,
    Statement,
    Verifier,
    find_newest,
    parse,
    statement_of,
)
from signer.audit.hash_chain import (
    BrokenChainError,
    ChainReader,
    is_canonical,
    require_agreement,
)
from signer.errors import InvalidInputError
from signer.model.audit_record import Record, made_at
from signer.ports.audit_journal import Checkpoint, Journal
from signer.ports.clock import Clock, utc_now


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
    """How many ``records`` have no checkpoint, and how long one has been due."""

    first: int
    records: int
    waited: timedelta

    @property
    def is_overdue(self) -> bool:
        """Whether a running checkpointer would have signed these records before now."""
        grace = GRACE if self.first > 1 else FIRST_GRACE
        return self.records > MAX_RECORDS or self.waited > grace


class UnsignedTail:
    """
    Collects the records after the checkpoint of *size* records.

    The checkpointer and ``verify`` use the same rule: an attacker who removes the later
    checkpoints of a chain leaves a long run of records without one.
    """

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


VERIFY_SECONDS = 0.1
"""How long one step verifies links before the sealer seals records again."""


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """
    The key and origin of checkpoints.

    One is due when the chain has grown and the last one is ``interval`` old, or when
    ``records`` records have none.
    """

    key: CheckpointKey
    origin: str
    interval: timedelta = INTERVAL
    records: int = RECORDS

    def verify(self, stored: Checkpoint) -> Statement | None:
        """Return what *stored* states; None if it is not by this key and origin."""
        try:
            Verifier(self.key.public_pem()).verify(stored.note)
        except InvalidInputError:
            return None
        return statement_of(stored, self.origin)


@dataclass(eq=False, repr=False)
class Checkpointer:
    """Compares a journal with its checkpoints; signs new ones if it has settings."""

    journal: Journal
    settings: CheckpointSettings | None = None
    alerts: Alerts = field(default_factory=Alerts)
    clock: Clock = utc_now
    _: KW_ONLY
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        import structlog  # noqa: PLC0415  An auditor does not need it.

        self._log = structlog.get_logger("audit")
        self._verify = None if self.settings is None else self.settings.verify
        self._newest: Checkpoint | None = None
        self._last: Statement | None = None  # What the newest one states.
        self._reported = frozenset[Checkpoint]()
        self._reader: ChainReader | None = None
        self._has_started = False
        self._broken_at: int | None = None

    @property
    def is_in_progress(self) -> bool:
        """Whether the verification for the next checkpoint has started."""
        return self._reader is not None

    def sign_if_due(self, now: datetime) -> None:
        """
        Compare the chain with its newest checkpoint, and sign another one if due.

        A broken chain sounds an alert, and this process signs no checkpoint any more.
        """
        if self._broken_at is not None:
            # A new checkpoint would contradict an earlier one.
            self._sound_broken(self._broken_at)
            return
        try:
            if self._last is None:
                self._load_newest()
            if self.settings is not None and self._is_due(self.settings, now):
                self._load_newest()  # Another process may have signed meanwhile.
                self._advance(self.settings, now)
        except BrokenChainError as e:
            self._broken_at, self._reader = e.sequence, None
            self._sound_broken(e.sequence)

    def checkpoint(self) -> Checkpoint | None:
        """
        Return a checkpoint of the whole chain; sign one if needed.

        Return None if one is needed and there is no key.

        Raises:
            BrokenChainError: The chain differs from an earlier checkpoint.
            InvalidInputError: The chain is empty.
        """
        self._load_newest()
        if self._last is not None and self._last.size == self.journal.head()[0]:
            return self._newest
        if self.settings is None:
            return None
        if self.journal.head()[0] == 0:
            raise InvalidInputError(
                "there is no audit record yet: start the service, then ask again"
            )
        reader = self._start_reader()
        reader.advance()
        return self._sign(self.settings, reader)

    def _load_newest(self) -> None:
        """Load the newest checkpoint, and require that the chain agrees with it."""
        if self._last is not None:
            require_agreement(self.journal, self._last)
        after = self._last.size if self._last is not None else 0
        found = find_newest(self.journal, self._verify, after)
        self._report(found)
        if (statement := found.statement) is None:
            return
        require_agreement(self.journal, statement)
        self._reader = None  # Another process has signed: start from there.
        self._newest, self._last = found.checkpoint, statement

    def _report(self, found: NewestCheckpoints) -> None:
        """Report once what is stored as a checkpoint, and is not by our key."""
        new = [each for each in found.forged if each not in self._reported]
        if new:
            count, size = len(new), new[0].size
            self.alerts.sound(Alert.CHECKPOINT_FORGED, checkpoints=count, size=size)
        # This is expected after the key was changed.  Otherwise a process that can
        # write to the database has made it; only checkpoints kept elsewhere show what
        # that process changed.
        for each in found.of_others[:1]:
            if each not in self._reported:
                self._log.warning("audit-checkpoint-of-another-key", size=each.size)
        self._reported = frozenset((*found.forged, *found.of_others))

    def _is_due(self, settings: CheckpointSettings, now: datetime) -> bool:
        size, _ = self.journal.head()
        if self._last is None:
            return size > 0
        unsigned_records = size - self._last.size
        # The absolute value, since clocks may be set back.
        is_old = abs(now - self._last.at) >= settings.interval
        return unsigned_records >= (1 if is_old else settings.records)

    def _advance(self, settings: CheckpointSettings, now: datetime) -> None:
        """Verify for ``VERIFY_SECONDS``, and sign at the end of the chain."""
        if not self._is_due(settings, now):
            return
        reader = self._reader = self._start_reader()
        until = self.timer() + VERIFY_SECONDS
        if reader.advance(lambda: self.timer() >= until):
            self._sign(settings, reader)

    def _start_reader(self) -> ChainReader:
        """Return the reader in progress, or a new one from the last checkpoint."""
        if self._reader is not None:
            return self._reader
        if not self._has_started:
            self._has_started = True
            self._sound_overdue()
        last = self._last
        if last is None:
            return ChainReader(self.journal)
        return ChainReader(self.journal, last.size, last.hash)

    def _sound_overdue(self) -> None:
        """Sound an alert if a checkpoint was overdue before this process started."""
        # The owner of the tables may have removed checkpoints and rewritten the records
        # that they covered.  This process cannot detect that, so an operator must
        # compare with checkpoints kept elsewhere.  After an ordinary stop nothing is
        # wrong, so the chain is signed all the same.
        last = self._last
        size, at = (last.size, last.at) if last is not None else (0, None)
        found = find_unsigned(self.journal, size, at, self.clock())
        if found.is_overdue:
            self.alerts.sound(
                Alert.SIGNING_LATE,
                sequence=found.first,
                records=found.records,
                seconds=int(found.waited.total_seconds()),
            )

    def _sound_broken(self, sequence: int) -> None:
        self.alerts.remind(Alert.CHAIN_BROKEN, sequence=sequence)

    def _sign(self, settings: CheckpointSettings, reader: ChainReader) -> Checkpoint:
        """Sign and store a checkpoint of the records that *reader* has verified."""
        made = settings.key.sign(
            settings.origin, reader.size, reader.head, self.clock()
        )
        self.journal.keep_checkpoint(made)
        self._newest, self._reader = made, None
        self._last = parse(made.note).statement
        # Logs are shipped to another host, which then has the checkpoint as well.
        self._log.info("audit-checkpoint", size=made.size, note=made.note)
        return made
