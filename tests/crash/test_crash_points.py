"""A crash point kills one process at its call, and changes nothing else."""

import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from signer.model.refund import Refund
from signer.ports.chain import ChainClient
from signer.ports.key_backend import KeyDirectory
from signer.ports.ledger import Ledger
from signer.ports.refund_store import Change
from tests.crash import crash_points
from tests.crash.crash_points import (
    CRASH_AT,
    CRASH_MARKERS,
    CrashingPort,
    CrashPoints,
    reached,
)


class Port:
    """A port whose effect is a file."""

    def __init__(self, done: Path) -> None:
        self._done = done

    def save_all(self, changes: Sequence[object]) -> str:
        """Write the file."""
        self._done.write_text("saved")
        return "answer"


def _fork(work: Callable[[], object]) -> int:
    """Call *work* in a fork, and return the signal that killed it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.fixture
def port(tmp_path: Path) -> Port:
    return Port(tmp_path / "done")


@pytest.mark.parametrize(
    ("point", "number", "done"),
    [
        ("api/store.save_all:before", signal.SIGKILL, False),
        ("api/store.save_all:after", signal.SIGKILL, True),
        ("api/store.save_all(signed):before", signal.SIGKILL, False),
        ("api/store.save_all(signed):after", signal.SIGKILL, True),
        ("api/store.save_all(queued):after", 0, True),
        ("api/chain.save_all:before", 0, True),
        ("worker/store.save_all:before", 0, True),
    ],
)
def test_a_point_kills_at_its_call(
    tmp_path: Path, port: Port, point: str, number: int, done: bool
) -> None:
    """The process dies before the call or after it, for its role, port and status."""
    markers = tmp_path / "markers"
    markers.mkdir()
    environ = {CRASH_AT: f"other {point}", CRASH_MARKERS: str(markers)}
    crashing = CrashingPort(port, "store", CrashPoints("api", environ))
    queued, signed = (SimpleNamespace(status=name) for name in ("queued", "signed"))
    change = Change(cast("Refund", queued), cast("Refund", signed))

    first = _fork(lambda: crashing.save_all([change]))

    assert (number, done) == (first, (tmp_path / "done").exists())
    assert ({point} if number else set()) == reached(markers)
    assert _fork(lambda: crashing.save_all([change])) == 0


def test_without_points_the_port_is_unchanged(port: Port) -> None:
    """It returns what the port returns."""
    crashing = CrashingPort(port, "store", CrashPoints("api", {}))

    assert crashing.save_all([]) == "answer"


def test_each_point_is_a_call_of_a_port() -> None:
    """A method that was renamed would leave a point that no process reaches."""
    ports = {"store": Ledger, "chain": ChainClient, "backend": KeyDirectory}
    tables = (
        value
        for name, value in vars(crash_points).items()
        if name.isupper() and isinstance(value, dict)
    )
    names = {each for table in tables for found in table.values() for each in found}
    calls = {tuple(re.split(r"[.(:]", each)[:2]) for each in names}

    assert len(calls) > 20
    assert {call for call in calls if not hasattr(ports[call[0]], call[1])} == set()
