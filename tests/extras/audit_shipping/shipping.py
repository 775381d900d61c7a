"""A log that is shipped, and the processes that ship it."""

from dataclasses import dataclass
from typing import Any

import boto3  # type: ignore[import-untyped]

from api.extras.audit_shipping.places import Place
from api.extras.audit_shipping.reader import RECORDS
from api.extras.audit_shipping.shipper import Shipper
from backends.sql import SQLStore
from signer.alerts import Alerts
from signer.audit.checkpointer import CheckpointSettings
from signer.audit.export import export
from signer.ports.audit_journal import Checkpoint
from tests.api.support import SettableClock
from tests.support.audit import KEY, ORIGIN, checkpoint, record
from tests.support.ledgers import seal


SETTINGS = CheckpointSettings(KEY, ORIGIN)


def create_bucket(url: str, name: str) -> Any:
    """Create a bucket with versions and object lock at *url*; return the client."""
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )
    return client


@dataclass
class Shipping:
    """One ledger's log, its place, and the processes that ship."""

    store: SQLStore
    place: Place
    clock: SettableClock
    written: int = 0
    sealed_at: float | None = None
    timer: float = 1000.0

    def write(self, count: int = 1, *, sealed: bool = True) -> None:
        numbers = range(self.written, self.written + count)
        self.store.append([record(n, at=self.clock()) for n in numbers])
        self.written += count
        if sealed:
            seal(self.store)

    def sign(self) -> Checkpoint:
        links = self.store.sealed(0, 100_000)
        made = checkpoint(links, len(links), at=self.clock())
        self.store.keep_checkpoint(made)
        return made

    def process(self, place: Place | None = None) -> Shipper:
        """Return a new process."""
        return Shipper(
            self.store,
            place or self.place,
            SETTINGS,
            Alerts(clock=self.clock),
            self.clock,
            sealed_at=lambda: self.sealed_at,
            timer=lambda: self.timer,
        )

    def records(self) -> bytes:
        return b"".join(self.place.get(each) for each in self.place.list(RECORDS))

    def exported(self) -> bytes:
        """Return the lines of an export without its checkpoints and its end."""
        lines = export(self.store, ORIGIN)
        kept = (x for x in lines if not x.startswith((b'{"checkpoint"', b'{"end"')))
        return b"".join(kept)
