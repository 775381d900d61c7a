"""
Processes that write and seal the audit chain, and may be killed at any line.

A ``writer`` appends records, and journals each before it appends it and after the store
reported it durable.  A ``sealer`` seals and signs checkpoints.  A ``service`` does both
in threads, as an API process does.
"""

import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, cast

import structlog
from sqlalchemy import event

from api.logs import install
from backends.sql import SQLStore
from signer.audit.checkpointer import Checkpointer, CheckpointSettings
from signer.audit.checkpoints import CheckpointKey
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer
from signer.errors import StoreUnavailableError
from signer.model.audit_record import Operation, Purpose, Record, Subject
from signer.ports.audit_journal import Journal as AuditJournal
from signer.ports.clock import utc_now
from tests.crash.crash_points import CrashingPort, CrashPoints
from tests.crash.host import keep_alive
from tests.crash.journal import Journal
from tests.support.ledgers import open_ledger


_SUBJECT = Subject("pkcs11", "01", "0x5FbDB2315678afecb367f032d93F642f64180aa3")

POINTS = (
    "sealer/store.seal:before",
    "sealer/store.seal:committing",
    "sealer/store.seal:after",
    "sealer/store.keep_checkpoint:before",
    "sealer/store.keep_checkpoint:after",
    "writer/store.append:before",
    "writer/store.append:after",
)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """
    Where the processes work, and how fast.

    A sealer rests for ``rest_factor`` times what it would rest in production, and signs
    a checkpoint every ``checkpoint_seconds`` or ``checkpoint_records``.  A writer rests
    for ``pause_seconds`` on average.
    """

    database_url: str
    folder: Path
    origin: str
    rest_factor: float = 0.2
    checkpoint_seconds: float = 0.2
    checkpoint_records: int = 50
    pause_seconds: float = 0.02
    threads: int = 4

    @property
    def key_file(self) -> Path:
        """The key that signs checkpoints."""
        return self.folder / "audit.pem"


class _CrashingStore(CrashingPort):
    """A store that may also die between its last statement and the commit."""

    def __init__(self, store: SQLStore, points: CrashPoints) -> None:
        super().__init__(store, "store", points)
        self._method = ""
        engine = store._database._process().engine
        event.listen(engine, "commit", self._reach_commit)

    def _around(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._around(name, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._method = name
            return wrapped(*args, **kwargs)

        return call

    def _reach_commit(self, _: object) -> None:
        self._points.reach(f"store.{self._method}:committing")


def run_audit_host(settings: WorkerSettings, roles: Sequence[str]) -> NoReturn:
    """Keep a process in each of *roles* alive."""
    install(debug=False, stream=sys.stdout)
    keep_alive([partial(_ROLES[role], settings) for role in roles])


def _write(settings: WorkerSettings) -> None:
    journal = _open_journal(settings, "writer")
    _append_forever(journal, settings, f"writer-{os.getpid()}")


def _seal(settings: WorkerSettings) -> None:
    _seal_forever(_open_journal(settings, "sealer"), settings)


def _write_and_seal(settings: WorkerSettings) -> None:
    store = open_ledger(settings.database_url, pool_size=settings.threads)
    for number in range(settings.threads):
        threading.Thread(
            target=_append_forever,
            args=(store, settings, f"writer-{os.getpid()}-{number}"),
            daemon=True,
        ).start()
    _seal_forever(store, settings)


def _open_journal(settings: WorkerSettings, role: str) -> AuditJournal:
    store = open_ledger(settings.database_url, pool_size=1)
    crashing = _CrashingStore(store, CrashPoints(role, os.environ))
    return cast("AuditJournal", crashing)


def _seal_forever(journal: AuditJournal, settings: WorkerSettings) -> None:
    checkpoints = CheckpointSettings(
        CheckpointKey.load(settings.key_file),
        settings.origin,
        interval=timedelta(seconds=settings.checkpoint_seconds),
        records=settings.checkpoint_records,
    )
    pause = threading.Event()
    Sealer(Checkpointer(journal, checkpoints)).run(
        lambda seconds: pause.wait(seconds * settings.rest_factor)
    )


def _append_forever(journal: AuditJournal, settings: WorkerSettings, name: str) -> None:
    audit = AuditLog(structlog.get_logger("audit"))
    pauses = random.Random(name)
    purpose = Purpose(Operation.MESSAGE_SIGNING, actor=name)
    with Journal(settings.folder / f"{name}.journal") as written:
        for number in itertools.count():
            digest = sha256(f"{name} {number}".encode()).digest()
            _append(journal, written, audit.intent(purpose, _SUBJECT, digest))
            outcome = audit.outcome(
                purpose, _SUBJECT, digest=digest, outcome="success", seconds=0.001
            )
            _append(journal, written, outcome)
            time.sleep(pauses.uniform(0, 2 * settings.pause_seconds))


def _append(journal: AuditJournal, written: Journal, record: Record) -> None:
    digest = sha256(record.body.encode()).hexdigest()
    written.write("asked", id=record.id, body=digest)
    # PostgreSQL restarts all connections when it recovers from a killed one.
    with suppress(StoreUnavailableError):
        journal.append([record])
        written.write("answered", id=record.id, seen=utc_now().timestamp())


_ROLES: Mapping[str, Callable[[WorkerSettings], None]] = {
    "writer": _write,
    "sealer": _seal,
    "service": _write_and_seal,
}
