"""A program fills the disk of the log, or ends the reader of its pipe."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import pytest

from api.logs import audit_logger
from backends.sql import SQLStore
from signer.audit.log import AuditLog, parse_line
from signer.errors import InvalidInputError
from signer.model.audit_record import Record
from signer.model.refund import Refund, Status
from tests.support.devices import Device, point, signer_over
from tests.support.ledgers import ROW_MACS
from tests.support.refunds import KEY, World


CODE = "audit-log-unwritable"


class Disk:
    """A log file; its disk is full, or its pipe closed, between two calls."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sink: TextIO = path.open("a", encoding="ascii")
        self._good = os.dup(self.sink.fileno())
        self._reader: int | None = None

    def fill(self) -> None:
        """Let every write fail with ENOSPC."""
        self._replace(os.open("/dev/full", os.O_WRONLY))

    def close_pipe(self) -> None:
        """Let every write fail with EPIPE."""
        reader, writer = os.pipe()
        os.close(reader)
        self._replace(writer)

    def congest(self) -> None:
        """Let writes fail after a few lines, as a pipe does that is read too slowly."""
        self._reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        self._replace(writer)

    def free(self) -> None:
        """Let writes succeed again; what a pipe holds is read first."""
        if self._reader is not None:
            os.write(self._good, os.read(self._reader, 4096))
            os.close(self._reader)
            self._reader = None
        os.dup2(self._good, self.sink.fileno())

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.free()
        self.sink.close()
        os.close(self._good)

    @property
    def is_congested(self) -> bool:
        """Whether lines are in a pipe that no process has read yet."""
        return self._reader is not None

    def records(self) -> list[Record]:
        """Return the authentic records in the file, in order."""
        records = []
        with self._path.open("rb") as file:
            for line in file:
                with suppress(InvalidInputError):  # A write that failed tears lines.
                    records.append(parse_line(line))
        assert all(ROW_MACS.is_valid(each.mac, each) for each in records)
        return records

    def _replace(self, descriptor: int) -> None:
        os.dup2(descriptor, self.sink.fileno())
        os.close(descriptor)


@dataclass
class Scene:
    """A worker whose lines go to a disk, and a device that reads them."""

    store: SQLStore
    disk: Disk
    on_signature: Callable[[], None] | None = None
    device: Device = field(init=False)
    world: World = field(init=False)

    def __post_init__(self) -> None:
        """Create device and world."""
        self.device = Device(point(KEY), self._sign)
        audit = AuditLog(audit_logger(self.disk.sink), journal=self.store)
        self.world = World(self.store, signer=signer_over(self.device, audit))

    def _sign(self, digest: bytes) -> bytes:
        if not self.disk.is_congested:
            assert len(self.intents()) >= self.device.calls
        if self.on_signature is not None:
            self.on_signature()
        return KEY.sign(digest, hasher=None)

    def intents(self) -> list[Record]:
        """Return the intents to sign in the log."""
        return [
            each
            for each in self.disk.records()
            if each.fields["event"] == "digest-sign-requested"
        ]

    def work(self) -> None:
        """Let a worker take each refund as far as it gets."""
        self.world.work(timedelta(seconds=20))

    def stored(self, refunds: list[Refund]) -> list[Refund]:
        """Return *refunds* as they are in the ledger."""
        return [self.world.stored(refund) for refund in refunds]


@pytest.fixture
def scene(sqlite_store: SQLStore, tmp_path: Path) -> Iterator[Scene]:
    disk = Disk(tmp_path / "log")
    yield Scene(sqlite_store, disk)
    disk.close()


OUTAGES = [Disk.fill, Disk.close_pipe]


@pytest.mark.parametrize("fail", OUTAGES)
def test_nothing_is_signed_while_the_log_is_not_written(
    scene: Scene, fail: Callable[[Disk], None]
) -> None:
    """The refunds keep their nonces, and are paid once the log is written again."""
    refunds = [scene.world.accepted() for _ in range(5)]
    fail(scene.disk)
    for _ in range(3):
        scene.work()

    waiting = scene.stored(refunds)
    assert scene.device.calls == 0
    assert scene.world.chain.broadcasts == []
    assert {each.status for each in waiting} <= {Status.QUEUED, Status.RESERVED}
    assert {each.moving.blocked_by for each in waiting} == {CODE}

    scene.disk.free()
    scene.work()
    scene.work()

    assert scene.device.calls == 5
    assert {each.status for each in scene.stored(refunds)} == {Status.BROADCAST}
    for refund in scene.stored(refunds):
        nonces = [
            intent.fields["details"].get("nonce")
            for intent in scene.intents()
            if intent.fields["refund_id"] == refund.id
        ]
        assert refund.nonce in nonces


def test_the_log_fails_in_the_middle_of_a_batch(scene: Scene) -> None:
    """What has its line is signed, and the rest is signed later, each once."""
    refunds = [scene.world.accepted() for _ in range(10)]
    scene.disk.congest()

    scene.work()

    signed = scene.device.calls
    waiting = [each for each in scene.stored(refunds) if each.moving.blocked_by == CODE]
    assert 1 <= signed <= 9
    assert len(waiting) == 10 - signed
    assert {each.status for each in waiting} == {Status.RESERVED}
    scene.disk.free()

    scene.work()

    assert scene.device.calls == 10
    assert {each.status for each in scene.stored(refunds)} == {Status.BROADCAST}
    nonces = {intent.fields["details"].get("nonce") for intent in scene.intents()}
    assert nonces == set(range(10))


def test_the_log_fails_while_the_device_signs(scene: Scene) -> None:
    """A signature whose intent has its line is used; its outcome is in the ledger."""
    refund = scene.world.accepted()
    scene.on_signature = scene.disk.fill

    scene.work()

    assert scene.device.calls == 1
    assert scene.world.stored(refund).status is Status.BROADCAST
    scene.disk.free()
    (intent,) = scene.intents()
    assert intent.fields["details"]["nonce"] == 0


def test_the_explanation_says_what_to_do(scene: Scene) -> None:
    refund = scene.world.accepted()
    scene.disk.fill()
    scene.work()

    explained = scene.world.explainer.explain(scene.world.stored(refund))

    assert CODE in explained.summary
    assert "free the disk" in explained.next_step
