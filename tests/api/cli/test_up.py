"""``hotwallet up``: API and worker as two processes that end together."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from api.auth.dev_tokens import mint
from api.cli.worker import run_together
from bench.processes import children
from dev.kms_emulator import KMSEmulator
from dev.ports import free_port
from dev.stack import request
from signer.config.settings import Settings
from tests.api.service import BODY
from tests.e2e.dependencies import kms_settings, prepared_networks, service_environ
from tests.fixtures.chain import DevChain
from tests.support.programs import ROOT
from tests.support.waiting import eventually


_WAITING = """\
import os, pathlib, signal, sys
path, status = pathlib.Path(sys.argv[1]), int(sys.argv[2])
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
while not ended:
    signal.pause()
sys.exit(status)
"""
"""Writes its id to a file, and ends with a status when it gets SIGTERM."""


@dataclass
class Pair:
    """Two programs that run together, in a thread of their own."""

    folder: Path
    stop: Event = field(default_factory=Event)
    executor: ThreadPoolExecutor = field(default_factory=ThreadPoolExecutor)

    def start(self, *commands: Sequence[str]) -> "Future[int]":
        return self.executor.submit(run_together, commands, self.stop)

    def waiting(self, name: str, status: int = 0) -> Sequence[str]:
        """Return a program that waits for SIGTERM, and then ends with *status*."""
        path = str(self.folder / name)
        return [sys.executable, "-c", _WAITING, path, str(status)]

    def pid(self, name: str) -> int:
        path = self.folder / name
        assert eventually(path.exists, 30)
        return int(path.read_text())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.stop.set()
    pair.executor.shutdown()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_both_run_until_they_are_stopped(pair: Pair) -> None:
    """Each gets SIGTERM once, and both have ended before the command ends."""
    status = pair.start(pair.waiting("one"), pair.waiting("other"))
    pids = [pair.pid("one"), pair.pid("other")]
    was_running = not status.done()
    pair.stop.set()

    assert status.result(30) == 0
    assert was_running
    assert [pid for pid in pids if _is_running(pid)] == []


@pytest.mark.parametrize("first", [0, 1])
def test_one_that_ends_ends_the_other(pair: Pair, first: int) -> None:
    """The status is that of the first that ended."""
    ready = pair.waiting("waiting", status=5)
    script = f"while [ ! -e {pair.folder}/waiting ]; do sleep 0.01; done; exit 3"
    commands = [["sh", "-c", script], ready]
    status = pair.start(*(commands if first == 0 else reversed(commands)))

    assert status.result(30) == 3
    assert not _is_running(pair.pid("waiting"))


def test_one_that_is_killed_ends_the_other(pair: Pair) -> None:
    """A signal is shown as shells show it."""
    status = pair.start(pair.waiting("one"), pair.waiting("other"))
    other = pair.pid("other")
    os.kill(pair.pid("one"), signal.SIGKILL)

    assert status.result(30) == 128 + signal.SIGKILL
    assert not _is_running(other)


def test_a_stop_returns_the_status_of_a_process_that_fails(pair: Pair) -> None:
    status = pair.start(pair.waiting("one", status=4), pair.waiting("other"))
    pair.pid("one"), pair.pid("other")
    pair.stop.set()

    assert status.result(30) == 4


# The tests themselves may run under `nohup`, which ignores SIGHUP in all its children.
_UP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "api.cli", "up"])
"""


def _up(environ: Mapping[str, str], **streams: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", _UP], cwd=ROOT, env=environ, **streams
    )


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        found += children(each)
    return found[1:]


@dataclass(frozen=True)
class System:
    """A running ``hotwallet up``, with an emulated KMS and a chain."""

    process: "subprocess.Popen[bytes]"
    url: str
    environ: Mapping[str, str]
    members: list[int] = field(default_factory=list)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return request("GET", f"{self.url}/readyz")[0] == 200
        return False


@pytest.fixture
def system(
    tmp_path: Path, fresh_anvil: DevChain, aws_environment: None
) -> Iterator[System]:
    port = free_port()
    with KMSEmulator() as kms:
        key = kms.create_key()
        networks, _ = prepared_networks(
            tmp_path, fresh_anvil.url, kms.address(key), node_url=fresh_anvil.url
        )
        environ = service_environ(
            tmp_path,
            networks,
            **kms_settings(key, kms.region, kms.endpoint),
            BIND=f"127.0.0.1:{port}",
            WEB_CONCURRENCY="1",
        )
        with (
            (tmp_path / "output").open("wb") as output,
            _up(environ, stdout=output, stderr=output) as process,
        ):
            system = System(process, f"http://127.0.0.1:{port}", environ)
            try:
                assert eventually(system.is_ready, 60)
                system.members.extend(_descendants(process.pid))
                yield system
            finally:
                left = {*system.members, *_descendants(process.pid), process.pid}
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def test_a_refund_is_paid_and_sigterm_ends_both(system: System) -> None:
    """The API accepts the refund, the worker sends it, and the status is 0."""
    token = mint(Settings.from_env(system.environ), subject="m", roles=["merchant"])
    status, _, answer = request(
        "POST",
        f"{system.url}/v1/refunds",
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "k"},
        body={**BODY, "amount": "1"},
    )
    system.process.send_signal(signal.SIGTERM)
    ended = system.process.wait(60)

    assert (status, answer["status"]) == (201, "broadcast")
    assert ended == 0
    assert len(system.members) == 3  # A worker, gunicorn, and a worker of gunicorn.
    assert [pid for pid in system.members if _is_running(pid)] == []


def test_a_closed_terminal_ends_both(system: System) -> None:
    """It sends SIGHUP, and the two are in sessions that it does not reach."""
    system.process.send_signal(signal.SIGHUP)

    assert system.process.wait(60) == 0
    assert [pid for pid in system.members if _is_running(pid)] == []


def test_a_refusal_ends_both(tmp_path: Path) -> None:
    """Status 78, so that a supervisor does not try again."""
    environ = service_environ(tmp_path, tmp_path / "missing.toml")
    with _up(environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 78
    assert b"refused: networks-misconfigured" in errors
    assert b"Traceback" not in errors
