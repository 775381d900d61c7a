"""
The notary: signs for how long the chain is, after each link of it was done again.

It goes a long way in pieces, since whoever calls it has records to seal meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from signer.alerts import Alert, Alerts, AlertThrottle
from signer.audit.chain_reader import (
    BrokenChainError,
    ChainReader,
    newest,
    require_agreement,
)
from signer.audit.checkpoint_schedule import EVERY, RECORDS, unsigned
from signer.audit.checkpoints import CheckpointKey, Statement, Verifier, read
from signer.errors import InvalidInputError
from signer.ports import Checkpoint, Clock, Journal


WALK_SECONDS = 0.1
"""For how long links are done again before records are sealed again."""


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """
    How checkpoints are made: with which key, in whose name, and how often.

    One is due when the chain has grown and the last one is ``every`` old, or
    ``records`` records behind.
    """

    key: CheckpointKey
    origin: str
    every: timedelta = EVERY
    records: int = RECORDS


class Checkpointer:
    """Looks whether a journal is what was signed for, and signs where it has a key."""

    def __init__(
        self,
        journal: Journal,
        signing: CheckpointSettings | None,
        alerts: Alerts,
        clock: Clock,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._signing = signing
        self._alerts = alerts
        self._clock = clock
        self._timer = timer
        self._log = structlog.get_logger("audit")
        self._last: Statement | None = None
        self._is_ours = False  # The last one; looked at before the first walk alone.
        self._walk: ChainReader | None = None
        self._has_begun = False
        self._broken: int | None = None
        self._throttle = AlertThrottle(timer)

    @property
    def is_under_way(self) -> bool:
        """Whether it has gone a piece of the way to a checkpoint, and not all of it."""
        return self._walk is not None

    def look(self, now: datetime) -> None:
        """Sign if it is time, after everything before was found to hold still."""
        if self._broken is not None:
            # Nothing is signed that contradicts what was signed before.
            self._complain(self._broken)
            return
        try:
            if self._last is None:
                self._agree()
            if self._is_due(now):
                self._agree()  # Another process may have signed meanwhile.
            self._walk_on(now)
        except BrokenChainError as e:
            self._broken, self._walk = e.sequence, None
            self._complain(e.sequence)

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
        if self._signing is None:
            return None
        if self._journal.head()[0] == 0:
            raise InvalidInputError("there is no record to sign for yet")
        walk = self._begun()
        walk.go_on()
        return self._sign(self._signing, walk)

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
            self._walk = None  # Another process has been where it would end.
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
            self._is_ours = False
            self._log.warning("audit-checkpoint-of-another-key", size=kept.size)
        else:
            self._is_ours = True

    def _is_due(self, now: datetime) -> bool:
        if self._signing is None:
            return False
        size, _ = self._journal.head()
        if self._last is None:
            return size > 0
        behind = size - self._last.size
        return behind >= self._signing.records or (
            behind > 0 and apart(now, self._last.at) >= self._signing.every
        )

    def _walk_on(self, now: datetime) -> None:
        """Go a piece of the way to the next checkpoint, and sign at its end."""
        if self._signing is None or not self._is_due(now):
            return
        walk = self._walk = self._begun()
        until = self._timer() + WALK_SECONDS
        if walk.go_on(lambda: self._timer() >= until):
            self._sign(self._signing, walk)

    def _begun(self) -> ChainReader:
        """Return the walk from the last checkpoint that is under way, or a new one."""
        if self._walk is not None:
            return self._walk
        if not self._has_begun:
            self._has_begun = True
            self._tell_of_the_time_before()
        last = self._last
        if last is None:
            return ChainReader(self._journal)
        return ChainReader(self._journal, last.size, last.hash)

    def _tell_of_the_time_before(self) -> None:
        """
        Sound an alert if nobody has signed in a long time before this process began.

        Whoever owns the tables may have taken checkpoints away, and have written anew
        what they were about.  In this process we would know; in the one before, nobody
        can say, and so a person must: only checkpoints kept elsewhere tell.  After an
        honest stop nothing is wrong, and so the chain is signed for all the same.

        A last checkpoint by another key is none: he may have put it there himself.
        """
        last = self._last if self._is_ours else None
        size, at = (last.size, last.at) if last is not None else (0, None)
        found = unsigned(self._journal, size, at, self._clock())
        if found.is_overdue:
            self._alerts.sound(
                Alert.SIGNING_LATE,
                sequence=found.first,
                records=found.records,
                seconds=int(found.waited.total_seconds()),
            )

    def _complain(self, sequence: int) -> None:
        """Sound the alert of a chain that broke at *sequence*, now and then."""
        if self._throttle.is_due(Alert.CHAIN_BROKEN):
            self._alerts.sound(Alert.CHAIN_BROKEN, sequence=sequence)

    def _sign(self, signing: CheckpointSettings, walk: ChainReader) -> Checkpoint:
        """Sign for what follows from the last checkpoint, each link done again."""
        made = signing.key.sign(signing.origin, walk.size, walk.head, self._clock())
        self._journal.keep_checkpoint(made)
        self._last, self._walk = read(made.note), None
        # The log is kept elsewhere, and so is the checkpoint then.
        self._log.info("audit-checkpoint", size=made.size, note=made.note)
        return made


def apart(one: datetime, other: datetime) -> timedelta:
    """Return the time between two, whichever is first: clocks are put back, too."""
    return abs(one - other)
