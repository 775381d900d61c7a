"""
What writes the audit and what seals it, as processes that may die at any line.

``writer`` appends the records of one signature after another, and writes down what it
is about to append and what it was told is durable.  ``sealer`` seals, and signs with a
cadence that is given.  ``service`` does both, in threads, as an API process does.
"""

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Self, cast

import structlog
from sqlalchemy import event

from backends.sql import SQLStore
from signer.audit.checkpointer import CheckpointSettings
from signer.audit.checkpoints import CheckpointKey
from signer.audit.log import AuditLog
from signer.audit.sealer import Sealer
from signer.errors import StoreUnavailableError
from signer.model.audit_record import Operation, Purpose, Record, Subject
from signer.ports import Journal, utc_now
from tests.crash.journal import Journal as Diary
from tests.crash.points import CrashPoints, Watched


SUBJECT = Subject("pkcs11", "01", "0x5FbDB2315678afecb367f032d93F642f64180aa3")

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
class Orders:
    """What the processes of one storm are told, through the environment."""

    url: str
    folder: Path
    origin: str
    hurry: float
    every_seconds: float
    records: int
    pause_seconds: float
    threads: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Read them."""
        return cls(
            url=environ["STORM_URL"],
            folder=Path(environ["STORM_FOLDER"]),
            origin=environ["STORM_ORIGIN"],
            hurry=float(environ["STORM_HURRY"]),
            every_seconds=float(environ["STORM_EVERY"]),
            records=int(environ["STORM_RECORDS"]),
            pause_seconds=float(environ["STORM_PAUSE"]),
            threads=int(environ["STORM_THREADS"]),
        )

    @property
    def environ(self) -> dict[str, str]:
        """Pass them on."""
        return {
            "STORM_URL": self.url,
            "STORM_FOLDER": str(self.folder),
            "STORM_ORIGIN": self.origin,
            "STORM_HURRY": str(self.hurry),
            "STORM_EVERY": str(self.every_seconds),
            "STORM_RECORDS": str(self.records),
            "STORM_PAUSE": str(self.pause_seconds),
            "STORM_THREADS": str(self.threads),
        }

    @property
    def key_file(self) -> Path:
        """The key for checkpoints."""
        return self.folder / "audit.pem"


class _Committed(Watched):
    """A store that may also die between a statement and its commit."""

    def __init__(self, store: SQLStore, points: CrashPoints) -> None:
        super().__init__(store, "store", points)
        self._under_way = ""
        # The engine of this process, which nothing else has been asked of yet.
        engine = store._database._process().engine
        event.listen(engine, "commit", self._commit)

    def _around(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        watched = super()._around(name, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._under_way = name
            return watched(*args, **kwargs)

        return call

    def _commit(self, _: object) -> None:
        self._points.reach(f"store.{self._under_way}:committing")


def write(orders: Orders) -> None:
    """Append until somebody ends this process."""
    journal = _journal(orders, "writer")
    _append_for_ever(journal, orders, f"writer-{os.getpid()}")


def seal(orders: Orders) -> None:
    """Seal and sign until somebody ends this process."""
    _seal_for_ever(_journal(orders, "sealer"), orders)


def serve(orders: Orders) -> None:
    """Do both until somebody ends this process."""
    store = SQLStore(orders.url, pool_size=orders.threads)
    for number in range(orders.threads):
        threading.Thread(
            target=_append_for_ever,
            args=(store, orders, f"writer-{os.getpid()}-{number}"),
            daemon=True,
        ).start()
    _seal_for_ever(store, orders)


def _journal(orders: Orders, role: str) -> Journal:
    points = CrashPoints(role, os.environ)
    return cast("Journal", _Committed(SQLStore(orders.url, pool_size=1), points))


def _seal_for_ever(journal: Journal, orders: Orders) -> None:
    signing = CheckpointSettings(
        CheckpointKey.load(orders.key_file),
        orders.origin,
        interval=timedelta(seconds=orders.every_seconds),
        records=orders.records,
    )
    pause = threading.Event()
    Sealer(journal, signing).run(lambda rest: pause.wait(rest * orders.hurry))


def _append_for_ever(journal: Journal, orders: Orders, name: str) -> None:
    audit = AuditLog(structlog.get_logger("audit"))
    rest = random.Random(name)
    with Diary(orders.folder / f"{name}.diary") as diary:
        for number in itertools.count():
            digest = sha256(f"{name} {number}".encode()).digest()
            purpose = Purpose(Operation.MESSAGE_SIGNING, actor=name)
            _append(journal, diary, audit.intent(purpose, SUBJECT, digest))
            outcome = audit.outcome(
                purpose, SUBJECT, digest=digest, outcome="success", seconds=0.001
            )
            _append(journal, diary, outcome)
            time.sleep(rest.uniform(0, 2 * orders.pause_seconds))


def _append(journal: Journal, diary: Diary, record: Record) -> None:
    hashed = sha256(record.body.encode()).hexdigest()
    diary.write("asked", id=record.id, body=hashed)
    # A database that crashed under a neighbour is busy with itself for a moment.
    with suppress(StoreUnavailableError):
        journal.append([record])
        diary.write("answered", id=record.id, seen=utc_now().timestamp())


ROLES: Mapping[str, Callable[[Orders], None]] = {
    "writer": write,
    "sealer": seal,
    "service": serve,
}
