"""Sealing, exporting and verifying a short and a long audit log."""

import collections
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from backends.record_sequences import RecordSequences
from backends.sql import SQLStore
from bench.growth.audit_history import ORIGIN, fill_audit
from bench.growth.comparison import (
    MOST,
    Comparison,
    Durations,
    Measure,
    Stopwatch,
    compare,
)
from bench.growth.memory import peak_mb
from bench.harness import Figure, Goal
from signer.audit.checkpoints import CheckpointKey, Verifier
from signer.audit.export import export
from signer.audit.verify import Verification
from signer.model.audit_record import Record
from signer.ports.clock import utc_now
from tests.support.ledgers import open_ledger, seal, write_mac_key


FEW, MANY, QUICK = 5_000, 1_000_000, 6_000

_MANY = "BENCH_AUDIT_RECORDS"
"""Another number of records for the long log."""

_PART = 1000
"""How many records one measurement handles."""

_SEALED = 200

_MEASURED = 400 * _PART
"""How many records at the end of the long log are measured at most."""

_SEAL, _EXPORT, _VERIFY = "seal a record", "export a record", "verify a record"


@dataclass(frozen=True, slots=True)
class _Log:
    """A ledger with an audit log, its export, and the key of its checkpoints."""

    store: SQLStore
    size: int
    file: Path
    public_key: Path


@contextlib.contextmanager
def audit(folder: Path, *, is_quick: bool) -> Iterator[list[Comparison]]:
    """Yield the comparison of the durations, and of the memory."""
    many = QUICK if is_quick else int(os.environ.get(_MANY, MANY))
    with contextlib.ExitStack() as cleanup:
        logs = [
            cleanup.enter_context(_filled(folder / f"audit-{size}", size))
            for size in (FEW, many)
        ]
        labels = [f"{log.size:,} audit records" for log in logs]
        durations = [_measure(log) for log in logs]
        yield [
            compare(
                (_SEAL, _EXPORT, _VERIFY),
                (labels[0], durations[0]),
                (labels[1], durations[1]),
                at_least=1 if is_quick else 3,
                at_most=10,
            ),
            _memory(labels, logs),
        ]


@contextlib.contextmanager
def _filled(home: Path, size: int) -> Iterator[_Log]:
    home.mkdir()
    url, key = f"sqlite:///{home / 'ledger.db'}", CheckpointKey.generate()
    store = open_ledger(url)
    public_key, file = home / "checkpoints.pem", home / "export"
    public_key.write_bytes(key.public_pem())
    store.migrate()
    fill_audit(url, size, key)
    with file.open("wb") as lines:
        lines.writelines(export(store, ORIGIN))
    yield _Log(store, size, file, public_key)
    store.close()


def _measure(log: _Log) -> Measure:
    """Return what measures the next records, those at the end of a long log."""
    exported, verified = _exported(log), _verified(log)
    for lines in (exported, verified):
        _advance(lines, max(0, log.size - _MEASURED))

    def measure() -> Durations:
        watch = Stopwatch()
        log.store.append([_record() for _ in range(_SEALED)])
        watch.time(_SEAL, lambda: seal(log.store), _SEALED)
        watch.time(_EXPORT, lambda: _advance(exported, _PART), _PART)
        watch.time(_VERIFY, lambda: _advance(verified, _PART), _PART)
        return watch.durations

    return measure


def _exported(log: _Log) -> Iterator[bytes]:
    """Yield the lines of one export after another."""
    while True:
        yield from export(log.store, ORIGIN)


def _verified(log: _Log) -> Iterator[None]:
    """Verify the export again and again; yield after each line."""
    while True:
        verification = Verification(
            Verifier(log.public_key.read_bytes()), sequences=RecordSequences()
        )
        with log.file.open("rb") as file:
            for line in file:
                verification.read(line)
                yield


def _advance(lines: Iterator[object], count: int) -> None:
    collections.deque(islice(lines, count), maxlen=0)


def _record() -> Record:
    return Record.of({"event": "bench"}, utc_now())


def _memory(labels: Sequence[str], logs: Sequence[_Log]) -> Comparison:
    """Return the largest memory of the commands, each of which runs once."""
    figures, values = [], {}
    for name, arguments in (
        ("hotwallet audit export: memory", _export_command),
        ("hotwallet audit verify: memory", _verify_command),
    ):
        few, many = (f"{name}, {label}" for label in labels)
        figures.append(Figure(many, "MB", (Goal(few, at_most=MOST),)))
        for key, log in zip((few, many), logs, strict=True):
            values[key] = peak_mb(*arguments(log), log.file.with_name("log"))
    return Comparison(figures, lambda _: values)


def _export_command(log: _Log) -> tuple[Sequence[str], Mapping[str, str]]:
    home = log.file.parent
    environ = {
        "APP_ENV": "test",
        "HOTWALLET_HOME": str(home),
        "DATABASE_URL": f"sqlite:///{home / 'ledger.db'}",
        "MAC_KEY_FILE": str(write_mac_key(home)),
    }
    return ("audit", "export", "--out", str(home / "again")), environ


def _verify_command(log: _Log) -> tuple[Sequence[str], Mapping[str, str]]:
    arguments = "audit", "verify", str(log.file), "--public-key", str(log.public_key)
    return arguments, {}
