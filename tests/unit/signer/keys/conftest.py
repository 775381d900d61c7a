"""A key ring on SQLite, and devices that hang."""

from collections.abc import Iterator
from concurrent import futures
from threading import Event

import pytest

from backends.sql import SQLStore
from signer.deadline import Pending
from tests.support.ring import System


@pytest.fixture
def system(sqlite_store: SQLStore) -> System:
    """A system whose first key is the active one."""
    return System(sqlite_store)


class Hang:
    """
    Work that hangs until the test ends, and time limits that no test waits for.

    Time limits expire once *limit* calls hang.  ``waits`` has the limits in seconds.
    """

    def __init__(self) -> None:
        self.limit = 1
        self.waits: list[float] = []
        self.expired = Event()
        self.released = Event()
        self._calls = 0

    def __call__(self, *_: object) -> bytes:
        """Hang."""
        self._calls += 1
        if self._calls == self.limit:
            self.expired.set()
        self.released.wait(60)
        return bytes(70)

    def wait(self, pending: Pending[object], seconds: float) -> bool:
        """Wait for *pending* until the time limits expire."""
        self.waits.append(seconds)
        while not futures.wait([pending], 0.01).done:
            if self.expired.is_set():
                return False
        return True


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    """Return work that hangs."""
    hang = Hang()

    def wait(pending: Pending[object], seconds: float) -> bool:
        return hang.wait(pending, seconds)

    monkeypatch.setattr(Pending, "wait", wait)
    yield hang
    hang.released.set()
