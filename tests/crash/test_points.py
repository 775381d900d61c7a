"""A crash point kills where it says, once, and changes nothing else."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.crash.points import CRASH_AT, CRASH_MARKERS, CrashPoints, Watched, reached


class Shop:
    """A port with two methods; what was done is in a file that survives."""

    def __init__(self, done: Path) -> None:
        self._done = done

    def save(self, before: object, after: object) -> str:
        """Do something."""
        self._done.write_text("saved")
        return "answer"


def _fate(work: Callable[[], object]) -> int:
    """Do *work* in a child; return the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """The port under watch."""
    return Shop(tmp_path / "done")


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
def test_dies_where_it_says(
    tmp_path: Path, shop: Shop, point: str, number: int, done: bool
) -> None:
    """The process dies before the call or after it, for its role, port and status."""
    markers = tmp_path / "markers"
    markers.mkdir()
    environ = {CRASH_AT: f"other {point}", CRASH_MARKERS: str(markers)}
    watched = Watched(shop, "store", CrashPoints("api", environ))
    queued, signed = (SimpleNamespace(status=name) for name in ("queued", "signed"))

    first = _fate(lambda: watched.save(queued, signed))

    assert (number, done) == (first, (tmp_path / "done").exists())
    assert ({point} if number else set()) == reached(markers)
    assert _fate(lambda: watched.save(queued, signed)) == 0


def test_changes_nothing_else(shop: Shop) -> None:
    """Without a point, a watched port answers as the port itself."""
    watched = Watched(shop, "store", CrashPoints("api", {}))

    assert watched.save(None, None) == "answer"
