"""A laboratory for the audit chain alone: kills its writers and sealers."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from signer.audit.checkpoints import CheckpointKey
from tests.crash.audit_observer import AuditObserver, invalid_checkpoints
from tests.crash.audit_workers import POINTS, WorkerSettings, run_audit_host
from tests.crash.crash_points import CRASH_AT, CRASH_MARKERS, marker, reached
from tests.crash.journal import read_journal
from tests.crash.killer import Killer
from tests.crash.read_store import read_audit, reading
from tests.crash.supervisor import Program, Supervisor
from tests.support.invariants import hash_chain
from tests.support.waiting import eventually


ORIGIN = "hotwallet/storm"
KEY = CheckpointKey.generate()

_POINT_SECONDS = 3.0
"""How long a point stays armed if no process reaches it."""


@dataclass(frozen=True, slots=True)
class Written:
    """
    What the writers journalled, by record id.

    ``asked`` has the hashes of the bodies, ``answered`` the times at which the store
    reported them durable, and ``slowest`` the longest write in seconds.
    """

    asked: dict[str, str]
    answered: dict[str, float]
    slowest: float


class AuditLaboratory:
    """Processes in *roles* (see ``audit_workers.py``) on one database."""

    observer: AuditObserver

    def __init__(
        self, folder: Path, database_url: str, roles: Sequence[str], **settings: Any
    ) -> None:
        self._folder = folder
        self._settings = WorkerSettings(database_url, folder, ORIGIN, **settings)
        self._roles = roles
        self._cleanup = ExitStack()
        self._markers = folder / "markers"
        self._environ = {
            **os.environ,
            CRASH_AT: " ".join(POINTS),
            CRASH_MARKERS: str(self._markers),
        }
        self._supervisor = Supervisor(folder)
        self.deaths: list[tuple[str, float]] = []
        """The crash point, or "kill -9", and the time of each death."""

    def __enter__(self) -> Self:
        """Start the processes, and wait until the chain grows."""
        with ExitStack() as started:
            self._start(started)
            self._cleanup = started.pop_all()
        return self

    def _start(self, started: ExitStack) -> None:
        self._settings.key_file.touch(mode=0o600)
        self._settings.key_file.write_bytes(KEY.private_pem())
        self._markers.mkdir()
        for point in POINTS:
            marker(self._markers, point).touch()
        started.enter_context(self._supervisor)
        self._start_host("host", self._roles)
        store = started.enter_context(reading(self._settings.database_url))
        if self._settings.database_url.startswith("sqlite"):
            # A long wait for a lock would delay the observer, which looks again anyway.
            store.execute("PRAGMA busy_timeout = 10")
        self.observer = AuditObserver(store)
        assert eventually(self._has_grown, 60), self._log()

    def _start_host(self, name: str, roles: Sequence[str]) -> None:
        arguments = (self._settings, tuple(roles))
        self._host = self._supervisor.start(
            Program(name, run_audit_host, self._environ, arguments)
        )

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._cleanup.close()

    def observe(self, seconds: float) -> None:
        """Read the chain a hundred times a second."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.observer.look()
            time.sleep(0.01)

    def kill(self, count: int, seed: int) -> None:
        """Kill *count* processes, in turns at a crash point and at a random instant."""
        killer = Killer(self._supervisor, seed, {"child": 1})
        for number in range(count):
            if number % 2:
                if killer.kill():
                    self.deaths.append(("kill -9", time.time()))
            else:
                self._kill_at(POINTS[number // 2 % len(POINTS)])
            self.observe(killer.wait(0.1))

    def settle(self) -> None:
        """Stop the writers, and wait until everything is sealed and checkpointed."""
        _, last_death = self.deaths[-1]
        assert eventually(lambda: self._has_grown(last_death), 60), self._log()
        self._supervisor.stop(self._host)
        self._environ[CRASH_AT] = ""
        self._start_host("last", ["sealer"])
        assert eventually(self._is_settled, 60), self._log()
        self._supervisor.stop(self._host)
        self.observer.look()  # The last records may be sealed since its last look.

    def written(self) -> Written:
        """Return what the writers journalled."""
        asked, answered = dict[str, str](), dict[str, float]()
        durations = [0.0]
        for path in self._folder.glob("*.journal"):
            began = 0.0
            for entry in read_journal(path):
                if entry["event"] == "asked":
                    asked[entry["id"]] = entry["body"]
                    began = entry["at"]
                else:
                    answered[entry["id"]] = entry["seen"]
                    durations.append(entry["at"] - began)
        return Written(asked, answered, max(durations))

    def checkpoints(self) -> list[str]:
        """Return the checkpoints in the log and in the store."""
        events = [json.loads(e) for e in self._log().splitlines() if e.startswith("{")]
        logged = [
            each["note"] for each in events if each["event"] == "audit-checkpoint"
        ]
        return [*logged, *self.observer.checkpoints]

    def violations(self) -> Iterator[str]:
        """Yield a sentence for each record or checkpoint that is wrong or missing."""
        written, audit = self.written(), read_audit(self.observer.store)
        yield from hash_chain(audit)
        yield from self.observer.changes()
        hashes = {r.sequence: r.hash for r in audit if r.sequence and r.hash}
        yield from invalid_checkpoints(self.checkpoints(), hashes, KEY.public_pem())
        for id_ in written.answered.keys() - {record.id for record in audit}:
            yield f"{id_} was reported durable, and is lost"
        for record in audit:
            if record.sequence is None:
                yield f"{record.id} has no sequence number"
            if written.asked.get(record.id) != sha256(record.body.encode()).hexdigest():
                yield f"{record.id} is not what a writer appended"

    def longest_stall(self) -> float:
        """Return the longest time from a death until the chain grew, in seconds."""
        stalls = [
            min((grew - at for grew in self.observer.grew if grew > at), default=1e9)
            for _, at in self.deaths
        ]
        return max(stalls, default=0.0)

    def _kill_at(self, point: str) -> None:
        """Arm *point*, and wait until it has killed a process."""
        marker(self._markers, point).unlink()
        until = time.monotonic() + _POINT_SECONDS
        while time.monotonic() < until:
            self.observe(0.01)
            if point in reached(self._markers):
                self.deaths.append((point, time.time()))
                return
        marker(self._markers, point).touch()

    def _has_grown(self, since: float = 0.0) -> bool:
        self.observer.look()
        return any(grew > since for grew in self.observer.grew[-1:])

    def _is_settled(self) -> bool:
        self.observer.look()
        is_signed = len(self.observer.records) in self.observer.checkpoints.values()
        return is_signed and not self.observer.has_unsealed()

    def _log(self) -> str:
        return "".join(path.read_text() for path in self._folder.glob("*.log"))
