"""
The sealer: behind the writers, it gives records their places, and has them signed for.

Writers do not queue for the head of the chain; the sealer does that for them, and one
of all processes at a time.  Whatever it is killed in, it finds the store as one
transaction left it, and goes on from there; it never writes anything again.
"""

import time
from collections.abc import Callable
from datetime import datetime

import structlog

from signer.alerts import Alerts
from signer.audit.chain_reader import BATCH
from signer.audit.checkpointer import Checkpointer, CheckpointSettings, apart
from signer.audit.sealing_monitor import LATE, SealingAlert, made_at
from signer.errors import HotWalletError
from signer.ports import Checkpoint, Clock, Journal, utc_now


LOOK_SECONDS = 0.25
"""How long after one look the next one follows: a record waits so long, and a write."""

REST_SECONDS = 0.05
"""How long to wait at least, even where a look has taken longer than that."""


class Sealer:
    """Seals the records of a journal, and makes checkpoints where it has a key."""

    def __init__(
        self,
        journal: Journal,
        signing: CheckpointSettings | None = None,
        alerts: Alerts | None = None,
        clock: Clock = utc_now,
        *,
        sealing_alert: SealingAlert | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Seal what is in *journal*.

        *sealing_alert* is shared with the ``SealingMonitor`` of this process, if any.
        """
        alerts = alerts or Alerts(clock=clock)
        self._journal = journal
        self._notary = Checkpointer(journal, signing, alerts, clock, timer=timer)
        self._sealing_alert = sealing_alert or SealingAlert(alerts, timer)
        self._clock = clock
        self._timer = timer
        # The last records before a quiet time are signed for as well.
        self._every = min(LATE, signing.every) if signing else LATE
        self._log = structlog.get_logger("audit")
        self._looked_at: datetime | None = None

    def run(self, wait: Callable[[float], bool]) -> None:
        """
        Work until *wait* answers that it is time to stop.

        It is called between looks, with the seconds until the next one: what a look
        has taken is not waited for once more.
        """
        stop = False
        while not stop:
            began = self._timer()
            self._try_to_work()
            rest = LOOK_SECONDS - (self._timer() - began)
            stop = wait(max(REST_SECONDS, rest))

    def work(self) -> int:
        """
        Seal everything there is, sign if it is time, and return how many were sealed.

        Raises:
            StoreError: The journal cannot be read or written; nothing is half done.
        """
        sealed = self._seal_all()
        now = self._clock()
        if sealed or self._notary.is_under_way or self._is_time_to_look(now):
            self._looked_at = now
            self._notary.look(now)
        return sealed

    def checkpoint(self) -> Checkpoint | None:
        """
        Return a checkpoint of the chain as it is now, signed now if there is none.

        None without a key.

        Raises:
            BrokenChainError: It does not follow from what was signed before.
            InvalidInputError: There is no record to sign for yet.
        """
        return self._notary.checkpoint()

    def _try_to_work(self) -> None:
        try:
            self.work()
        except HotWalletError as e:
            self._log.warning("audit-sealing-failed", code=e.code)
        except Exception as e:  # noqa: BLE001  A bug in one look must not end them all.
            code = HotWalletError.code
            self._log.error("audit-sealing-failed", code=code, exc_info=e)

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

    def _is_time_to_look(self, now: datetime) -> bool:
        return self._looked_at is None or apart(now, self._looked_at) >= self._every

    def _watch(self, waiting: str | None) -> None:
        now = self._clock()
        made = made_at(waiting) if waiting is not None else None
        self._sealing_alert.report(now - (made or now), "sealer")
