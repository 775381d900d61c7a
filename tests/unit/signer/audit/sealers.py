"""Sealers with a clock that tests set, and their results."""

import structlog

from backends.sql.audit import AuditTables
from signer.alerts import Alerts
from signer.audit.checkpointer import Checkpointer, CheckpointSettings
from signer.audit.checkpoints import CheckpointKey
from signer.audit.sealer import Sealer
from tests.support.audit import KEY, ORIGIN
from tests.support.refunds import FakeClock


def sealer(
    journal: AuditTables,
    clock: FakeClock,
    *,
    key: CheckpointKey = KEY,
    records: int = 1000,
) -> Sealer:
    """Return a sealer with a checkpoint key."""
    return Sealer(
        Checkpointer(
            journal,
            CheckpointSettings(key, ORIGIN, records=records),
            Alerts(clock=clock),
            clock,
            timer=lambda: clock().timestamp(),
        )
    )


def sizes(journal: AuditTables) -> list[int]:
    """Return the number of records of each checkpoint."""
    return [each.size for each in journal.checkpoints()]


def alerts(logs: list[structlog.typing.EventDict]) -> list[tuple[object, ...]]:
    """Return the alerts in a log, with their sequence or delay."""
    return [
        (each["alert"], each.get("sequence", each.get("seconds")))
        for each in logs
        if each["event"] == "alert"
    ]
