"""
The sealer: behind the writers, it gives records their places, and signs for them.

Writers do not queue for the head of the chain; the sealer does that for them, and one
of all processes at a time.  Whatever it is killed in, it finds the store as one
transaction left it, and goes on from there; it never writes anything again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from signer.alerts import Alert, Alerts
from signer.audit.checkpoints import CheckpointKey, Statement, Verifier, read
from signer.audit.walking import (
    BATCH,
    BrokenChainError,
    followed,
    newest,
    require_agreement,
)
from signer.errors import HotWalletError, InvalidInputError
from signer.ports import Checkpoint, Clock, Journal, utc_now


LOOK_SECONDS = 0.5
"""How long to wait between two looks; a record is sealed a little later than that."""

LATE = timedelta(seconds=30)
"""A record that waits longer for its seal is an alert."""

REMIND = timedelta(minutes=5)
"""How long after an alert the next one follows, while nothing has changed."""


@dataclass(frozen=True, slots=True)
class Signing:
    """
    How checkpoints are made: with which key, in whose name, and how often.

    One is due when the chain has grown and the last one is ``every`` old, or
    ``records`` records behind.
    """

    key: CheckpointKey
    origin: str
    every: timedelta = timedelta(seconds=60)
    records: int = 1000


class Sealer:
    """Seals the records of a journal, and makes checkpoints where it has a key."""

    def __init__(
        self,
        journal: Journal,
        signing: Signing | None = None,
        alerts: Alerts | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._journal = journal
        self._signing = signing
        self._alerts = alerts
        self._clock = clock
        self._log = structlog.get_logger("audit")
        self._last: Statement | None = None
        self._looked_at: datetime | None = None
        self._late_at: datetime | None = None
        self._broken = False

    def run(self, wait: Callable[[], bool]) -> None:
        """Work until *wait*, called between looks, answers that it is time to stop."""
        stop = False
        while not stop:
            try:
                self.work()
            except HotWalletError as e:
                self._log.warning("audit-sealing-failed", code=e.code)
            stop = wait()

    def work(self) -> int:
        """
        Seal everything there is, sign if it is time, and return how many were sealed.

        Raises:
            StoreError: The journal cannot be read or written; nothing is half done.
        """
        sealed = self._seal_all()
        now = self._clock()
        if sealed or self._looked_at is None or _apart(now, self._looked_at) >= LATE:
            self._looked_at = now
            self._look(now)
        return sealed

    def checkpoint(self) -> Checkpoint | None:
        """
        Return a checkpoint of the chain as it is now, signed now if there is none.

        None without a key.

        Raises:
            BrokenChainError: It does not follow from what was signed before.
            InvalidInputError: There is no record to sign for yet.
        """
        self._agree()
        if self._last is not None and self._last.size == self._journal.head()[0]:
            return newest(self._journal)
        return self._sign()

    def _seal_all(self) -> int:
        """Seal what waits; what cannot be sealed is watched."""
        waiting = self._journal.oldest_unsealed()
        sealed = 0
        try:
            while waiting is not None:
                count = self._journal.seal(BATCH)
                if count is None:
                    break  # Another process is at it.
                sealed += count
                if count < BATCH:
                    waiting = None
        finally:
            self._watch(waiting)
        return sealed

    def _look(self, now: datetime) -> None:
        """Sign if it is time, after everything before was found to hold still."""
        if self._broken:
            return  # Nothing is signed that contradicts what was signed before.
        try:
            if self._last is None:
                self._agree()
            if self._is_due(now):
                self._agree()  # Another process may have signed meanwhile.
                if self._is_due(now):
                    self._sign()
        except BrokenChainError as e:
            self._broken = True
            self._sound(Alert.CHAIN_BROKEN, sequence=e.sequence)

    def _agree(self) -> None:
        """Take up the newest checkpoint, if the chain has what it and ours say."""
        if self._last is not None:
            require_agreement(self._journal, self._last)
        kept = newest(self._journal)
        if kept is None:
            return
        try:
            statement = read(kept.note)
        except InvalidInputError:
            statement = None
        if statement is None or statement.size != kept.size:
            raise BrokenChainError("a checkpoint is none", sequence=kept.size)
        require_agreement(self._journal, statement)
        if statement != self._last:
            self._recognise(kept)
        self._last = statement

    def _recognise(self, kept: Checkpoint) -> None:
        """
        Tell the log of a newest checkpoint that is not signed with our key.

        After the key was changed that is so once.  Otherwise somebody has written it
        who may write the store; what he hides, only checkpoints kept elsewhere show.
        """
        if self._signing is None:
            return
        try:
            Verifier(self._signing.key.public_pem()).verify(kept.note)
        except InvalidInputError:
            self._log.warning("audit-checkpoint-of-another-key", size=kept.size)

    def _is_due(self, now: datetime) -> bool:
        if self._signing is None:
            return False
        size, _ = self._journal.head()
        if self._last is None:
            return size > 0
        behind = size - self._last.size
        return behind >= self._signing.records or (
            behind > 0 and _apart(now, self._last.at) >= self._signing.every
        )

    def _sign(self) -> Checkpoint | None:
        """Sign for what follows from the last checkpoint, each link done again."""
        if self._signing is None:
            return None
        last = self._last
        size, head = (
            followed(self._journal, last.size, last.hash)
            if last
            else followed(self._journal)
        )
        made = self._signing.key.sign(self._signing.origin, size, head, self._clock())
        self._journal.keep_checkpoint(made)
        self._last = read(made.note)
        # The log is kept elsewhere, and so is the checkpoint then.
        self._log.info("audit-checkpoint", size=size, note=made.note)
        return made

    def _watch(self, waiting: str | None) -> None:
        now = self._clock()
        waited = now - _made_at(waiting, now)
        if waited < LATE:
            self._late_at = None
        elif self._late_at is None or _apart(now, self._late_at) >= REMIND:
            self._late_at = now
            self._sound(Alert.SEALING_LATE, seconds=int(waited.total_seconds()))

    def _sound(self, alert: Alert, **facts: int) -> None:
        if self._alerts is None:
            self._log.error("alert", alert=str(alert), **facts)
        else:
            self._alerts.sound(alert, **facts)


def _apart(one: datetime, other: datetime) -> timedelta:
    """Return the time between two, whichever is first: clocks are put back, too."""
    return abs(one - other)


def _made_at(record_id: str | None, now: datetime) -> datetime:
    """Return when the record was made, by its id (``new_record_id``); or *now*."""
    try:
        return datetime.fromtimestamp(int((record_id or "")[3:15], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return now
