"""A crash point kills one process at its call, and changes nothing else."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

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

    def save(self, before: object, after: object) -> str:
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
    """The port."""
    return Port(tmp_path / "done")


@pytest.mark.parametrize(
    ("point", "number", "done"),
    [
        ("api/store.save:before", signal.SIGKILL, False),
        ("api/store.save:after", signal.SIGKILL, True),
        ("api/store.save(signed):before", signal.SIGKILL, False),
        ("api/store.save(signed):after", signal.SIGKILL, True),
        ("api/store.save(queued):after", 0, True),
        ("api/chain.save:before", 0, True),
        ("worker/store.save:before", 0, True),
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

    first = _fork(lambda: crashing.save(queued, signed))

    assert (number, done) == (first, (tmp_path / "done").exists())
    assert ({point} if number else set()) == reached(markers)
    assert _fork(lambda: crashing.save(queued, signed)) == 0


def test_without_points_the_port_is_unchanged(port: Port) -> None:
    """It returns what the port returns."""
    crashing = CrashingPort(port, "store", CrashPoints("api", {}))

    assert crashing.save(None, None) == "answer"
