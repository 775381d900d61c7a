"""What the core knows of the place that the audit log is shipped to (an extra)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from signer.errors import AuditNotShippedError
from signer.ports.audit_journal import Journal
from signer.ports.clock import Clock


LATE = timedelta(seconds=60)
"""How old the oldest record that is not shipped may be before the alert sounds."""


NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""The time before which all was shipped, if that is unknown."""

_SKEW = timedelta(seconds=5)
"""How far two processes may be apart in reading the ledger's clock."""


def trusted(complete_at: datetime, now: datetime) -> datetime:
    """
    Return before when all was shipped, as the row's *complete_at* says.

    A time after *now* is that of a clock which was put back since: records that were
    committed meanwhile may be missing, so it proves nothing.
    """
    return complete_at if complete_at <= now + _SKEW else NEVER


@dataclass(eq=False, repr=False)
class ShippingCondition:
    """
    The condition that no record older than *longest* is missing at the place.

    The row says until when everything was there.  So one reading is good for the time
    that is left: a signature costs a comparison of two numbers.  Threads share it.

    *clock* is the ledger's.
    """

    journal: Journal
    longest: timedelta
    clock: Clock
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._until = float("-inf")

    def __call__(self) -> None:
        """Raise ``AuditNotShippedError`` if the condition does not hold."""
        began = self.timer()
        if began < self._until:
            return
        row = self.journal.shipping()
        if row is None or not row.is_authentic or not row.place:
            raise AuditNotShippedError(
                "the audit log is not shipped, or another program changed the row"
                " `audit_shipping`: a worker with AUDIT_SHIP_TO must run"
            )
        now = self.clock()
        lag = max(timedelta(0), now - trusted(row.complete_at, now))
        if lag >= self.longest:
            raise AuditNotShippedError(
                f"for {int(lag.total_seconds())} s not all audit records have been"
                " shipped: see `audit-shipping-failed` in the worker's log"
            )
        self._until = began + (self.longest - lag).total_seconds()
