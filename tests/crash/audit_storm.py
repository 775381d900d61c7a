"""A storm over the audit: its writers and sealers are killed, again and again."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from signer.audit.checkpoints import CheckpointKey
from tests.crash.audit_processes import POINTS, Orders
from tests.crash.audit_watch import Watch, contradictions
from tests.crash.evidence import Evidence
from tests.crash.invariants_of_audit import chain_holds
from tests.crash.journal import read_journal
from tests.crash.killer import Killer
from tests.crash.points import CRASH_AT, CRASH_MARKERS, reached
from tests.crash.read_audit import read_audit
from tests.crash.read_store import reading
from tests.crash.supervisor import Program, Supervisor
from tests.support.waiting import eventually


ORIGIN = "hotwallet/storm"
KEY = CheckpointKey.generate()

_POINT_SECONDS = 3.0
"""How long a point is armed, if nobody comes by."""


@dataclass(frozen=True, slots=True)
class Told:
    """
    What writers wrote down: what they would append, and what they were told.

    ``asked`` has the hashes of the bodies, ``answered`` when the answer came, and
    ``slowest`` is what the slowest write took, in seconds.
    """

    asked: dict[str, str]
    answered: dict[str, float]
    slowest: float


class Storm:
    """Processes in the given *roles*, on one database, with somebody who watches."""

    def __init__(self, folder: Path, url: str, roles: Sequence[str], **orders: Any):
        """Lay out what they need in *folder*."""
        defaults = Orders(
            url,
            folder,
            ORIGIN,
            hurry=0.2,
            every_seconds=0.2,
            records=50,
            pause_seconds=0.02,
            threads=4,
        )
        self.orders = replace(defaults, **orders)
        self._roles = roles
        self._stack = ExitStack()
        self._markers = folder / "markers"
        self.supervisor = Supervisor(folder)
        self.died: list[tuple[str, float]] = []
        """Where somebody died, and when."""

    def __enter__(self) -> Self:
        """Start everything; what was started ends as well if something does not."""
        with ExitStack() as started:
            self._start(started)
            self._stack = started.pop_all()
        return self

    def _start(self, started: ExitStack) -> None:
        folder = self.orders.folder
        self.orders.key_file.touch(mode=0o600)
        self.orders.key_file.write_bytes(KEY.private_pem())
        self._markers.mkdir()
        for point in POINTS:
            self._marker(point).touch()
        environ = {
            **os.environ,
            **self.orders.environ,
            CRASH_AT: " ".join(POINTS),
            CRASH_MARKERS: str(self._markers),
        }
        self.supervisor = started.enter_context(Supervisor(folder))
        self._host = self.supervisor.start(
            Program("host", ["tests.crash.audit_host", *self._roles], environ)
        )
        store = started.enter_context(reading(self.orders.url))
        if self.orders.url.startswith("sqlite"):
            # SQLite waits ever longer for a lock; ``look`` comes again by itself.
            store.execute("PRAGMA busy_timeout = 10")
        self.watch = Watch(store)
        assert eventually(self._has_begun, 60), self._log()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End everything."""
        self._stack.close()

    def rest(self, seconds: float) -> None:
        """Look on for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.watch.look()
            time.sleep(0.01)

    def strike(self, count: int, seed: int) -> None:
        """Let *count* processes die: in turns anybody at any line, and at a point."""
        killer = Killer(self.supervisor, seed, {"child": 1})
        for number in range(count):
            if number % 2:
                if killer.kill():
                    self.died.append(("kill -9", time.time()))
            else:
                self._arm(POINTS[number // 2 % len(POINTS)])
            self.rest(killer.wait(0.1))

    def settle(self) -> None:
        """Let the writers end, and the sealers catch up."""
        self.rest(0.5)
        self.supervisor.stop(self._host)
        environ = {**self._host.environ, CRASH_AT: ""}
        self._host = self.supervisor.start(
            Program("last", ["tests.crash.audit_host", "sealer"], environ)
        )
        assert eventually(lambda: not self._waits(), 60), self._log()
        self.supervisor.stop(self._host)

    def told(self) -> Told:
        """Return what the writers wrote down."""
        asked, answered = dict[str, str](), dict[str, float]()
        took = [0.0]
        for path in self.orders.folder.glob("*.diary"):
            began = 0.0
            for entry in read_journal(path):
                if entry["event"] == "asked":
                    asked[entry["id"]] = entry["body"]
                    began = entry["at"]
                else:
                    answered[entry["id"]] = entry["seen"]
                    took.append(entry["at"] - began)
        return Told(asked, answered, max(took))

    def notes(self) -> list[str]:
        """Return the checkpoints that the log was told of, and those in the store."""
        lines = self._log().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        notes = [each["note"] for each in told if each["event"] == "audit-checkpoint"]
        return [*notes, *self.watch.notes.values()]

    def violations(self) -> Iterator[str]:
        """Yield a sentence for whatever is not as it must be."""
        told, audit = self.told(), read_audit(self.watch.store)
        yield from chain_holds(Evidence(frozenset(), 0, audit=audit))
        yield from self.watch.changes()
        hashes = {r.sequence: r.hash for r in audit if r.sequence and r.hash}
        yield from contradictions(self.notes(), hashes, KEY.public_pem())
        kept = {record.id: record for record in audit}
        for id_ in told.answered.keys() - kept.keys():
            yield f"{id_} was told to be durable, and is not there"
        for record in audit:
            if record.sequence is None:
                yield f"{record.id} has no place"
            if told.asked.get(record.id) != sha256(record.body.encode()).hexdigest():
                yield f"{record.id} is not what a writer asked for"

    def longest_stand(self) -> float:
        """Return how long it took after a death, at the most, until the chain grew."""
        stands = [
            min((grew - at for grew in self.watch.grew if grew > at), default=1e9)
            for _, at in self.died
        ]
        return max(stands, default=0.0)

    def figures(self) -> dict[str, float]:
        """Return what was measured."""
        return {
            "deaths": len(self.died),
            "records": len(self.watch.records),
            "checkpoints": len(self.watch.notes),
            "checkpoints told": len(self.notes()) - len(self.watch.notes),
            "longest stand, s": self.longest_stand(),
        }

    def _arm(self, point: str) -> None:
        """Let the next one who comes by *point* die, and wait for that."""
        self._marker(point).unlink()
        until = time.monotonic() + _POINT_SECONDS
        while time.monotonic() < until:
            self.rest(0.01)
            if point in reached(self._markers):
                self.died.append((point, time.time()))
                return
        self._marker(point).touch()

    def _marker(self, point: str) -> Path:
        return self._markers / point.replace("/", "|")

    def _has_begun(self) -> bool:
        self.watch.look()
        return bool(self.watch.grew)

    def _waits(self) -> bool:
        """Say whether a record has no place yet, or no checkpoint behind it."""
        self.watch.look()
        return self.watch.waits or len(self.watch.records) not in self.watch.notes

    def _log(self) -> str:
        folder = self.orders.folder
        return "".join(path.read_text() for path in folder.glob("*.log"))
