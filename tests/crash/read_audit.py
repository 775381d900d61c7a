"""What the audit and the key ring say, asked by SELECT through the bare drivers."""

import time

from tests.crash.evidence import KeyRow, Recorded
from tests.crash.read_store import Connection


UNSEALED = 2**63  # Behind every place that there is.


def read_audit(store: Connection) -> tuple[Recorded, ...]:
    """Return all records, in their places; those that have none yet come last."""
    found = store.execute("SELECT id, body, sequence, hash FROM audit_records")
    records = [
        Recorded.of(row["id"], row["body"], row["sequence"], _bytes(row["hash"]))
        for row in found
    ]
    return tuple(sorted(records, key=lambda r: (r.sequence or UNSEALED, r.id)))


def read_keys(store: Connection) -> tuple[KeyRow, ...]:
    """Return the ring."""
    return tuple(
        KeyRow(row["address"].lower(), row["state"], row["epoch"])
        for row in store.execute("SELECT address, state, epoch FROM keys")
    )


def read_lateness(store: Connection) -> float:
    """Return for how many seconds the oldest record without a seal has waited."""
    query = "SELECT min(id) AS id FROM audit_records WHERE sequence IS NULL"
    (row,) = store.execute(query)
    if row["id"] is None:
        return 0.0
    return time.time() - int(row["id"][3:15], 16) / 1000


def _bytes(given: bytes | memoryview | None) -> bytes | None:
    return None if given is None else bytes(given)
