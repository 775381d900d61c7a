"""Worlds whose audit log is kept, as the log of a host is."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

from api.extras.restore.plan import RestorePlan
from signer.audit.log import AuditLog, LogLines
from signer.keys.signer import Signer
from signer.model.audit_record import Actor, Operation, Purpose, Record
from signer.model.refund import Refund, RefundRequest
from signer.ports.audit_journal import Journal
from signer.ports.key_backend import KeyId
from signer.ports.ledger import Ledger
from tests.support.devices import honest, signer_over
from tests.support.ledgers import copy_ledger
from tests.support.refunds import KEY, REQUEST, FakeClock, World


Opened = Callable[[Path], Ledger]


class KeptLog(LogLines):
    """Keeps each record that is written, in the order of the lines."""

    def __init__(self) -> None:
        super().__init__(lambda line: None)
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)


class _CurrentJournal:
    """The journal of the ledger that *world* has at the time of each call."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.store, name)


def keep_log(world: World) -> Sequence[Record]:
    """Let all processes of *world* write one log; return its records, which grow."""
    log = KeptLog()
    journal = cast("Journal", _CurrentJournal(world))
    audit = AuditLog(log, clock=world.clock, journal=journal)
    world.audit = audit
    world.signer = signer_over(honest(KEY), audit)
    world.others = tuple(
        # As ``World.rotate`` names the key in the ring.
        Signer.open(other._backend, KeyId(other.address.lower()), audit)
        for other in world.others
    )
    return log.records


class Restored(World):
    """A world with a log, whose ledger is the file ``0.db`` of a folder."""

    def __init__(
        self, store: Ledger, clock: FakeClock, folder: Path, opened: Opened
    ) -> None:
        super().__init__(store, clock=clock)
        self.log = keep_log(self)
        self._opened = opened
        self._folder = folder
        self._copies = count()

    def backup(self) -> Ledger:
        """Copy the current ledger, like a nightly job."""
        path = self._folder / f"backup-{next(self._copies)}.db"
        return self._opened(copy_ledger(self._folder / "0.db", path))


def write_log(path: Path, records: Sequence[Record]) -> Path:
    """Write *records* to a file, as a host logs them; return its path."""
    lines: list[str] = []
    log = LogLines(lines.append)
    for record in records:
        log.write(record)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def requested(world: World, reference: str, tenant: str = "gateway") -> Refund:
    """Return a refund that the gateway requested, which no worker has taken yet."""
    request = RefundRequest(
        REQUEST.payment_session_id,
        reference,
        REQUEST.network,
        REQUEST.token,
        REQUEST.recipient,
        REQUEST.amount,
    )
    submission = world.service.submit(
        tenant=tenant,
        idempotency_key=f"key of {reference}",
        request=request,
        actor=Actor.from_token(tenant, "req-1", None),
    )
    return submission.refund


def plan_of(world: World, records: Sequence[Record], **given: Any) -> RestorePlan:
    defaults: dict[str, Any] = {"stated": {}, "key_ids": (), "has_log": True}
    return world.planner.plan(records, **{**defaults, **given})


def filling(nonce: int) -> Purpose:
    details: dict[str, str | int]
    details = {"chain_id": 31337, "nonce": nonce, "attempt": 0, "kind": "noop"}
    return Purpose(Operation.NONCE_FILL, network="local", details=details)
