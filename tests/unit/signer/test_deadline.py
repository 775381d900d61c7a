"""Callers stop waiting for late work, and hanging threads are bounded."""

import contextvars
import threading
import time
from collections.abc import Iterator
from threading import Event

import pytest

from signer.deadline import Deadlines
from signer.errors import BackendUnavailableError, StoreUnavailableError


@pytest.fixture
def released() -> Iterator[Event]:
    """An event that hanging work waits for; it is set when the test ends."""
    event = Event()
    yield event
    event.set()


def _threads(name: str) -> int:
    return sum(thread.name == f"deadline-{name}" for thread in threading.enumerate())


def test_exception_of_the_work_is_raised() -> None:
    """The caller gets every exception of the work, including bugs."""
    with pytest.raises(ZeroDivisionError):
        Deadlines().within(5, lambda: 1 // 0, name="key")


def test_callers_stop_waiting_for_late_work(released: Event) -> None:
    """In time, with `backend-unavailable` or an error of the caller's choice."""
    began, deadlines = time.monotonic(), Deadlines()

    with pytest.raises(BackendUnavailableError):
        deadlines.within(0.1, released.wait, name="key")
    assert 0.1 <= time.monotonic() - began < 10
    with pytest.raises(StoreUnavailableError):
        deadlines.within(0.01, released.wait, name="d", late=StoreUnavailableError)
    # Only work with the same name is refused meanwhile.
    assert deadlines.within(5, lambda: 7, name="database") == 7


def test_hanging_work_does_not_pile_up(released: Event) -> None:
    """A hundred calls to a hanging device leave one thread, and fail at once."""
    deadlines = Deadlines()
    with pytest.raises(BackendUnavailableError):
        deadlines.within(0.01, released.wait, name="one")
    began = time.monotonic()

    for _ in range(100):
        with pytest.raises(BackendUnavailableError):
            deadlines.within(5, released.wait, name="one")

    assert time.monotonic() - began < 10
    assert _threads("one") == 1


def test_subjects_are_independent_up_to_the_total(released: Event) -> None:
    """Hanging work is refused for its own subject, until the total is reached."""
    two = Deadlines(per_subject=2)
    *begun, refused = (two.start(released.wait, name="two") for _ in range(3))
    assert all(each.is_started for each in begun)
    assert not refused.wait(5)

    deadlines = Deadlines(total=3)
    started = [
        deadlines.start(released.wait, name="key", subject=subject)
        for subject in ("a", "a", "b", "c", "d")
    ]
    released.set()

    assert [pending.is_started for pending in started] == [
        *(True, False, True, True, False),
    ]
    assert all(pending.wait(5) for pending in started if pending.is_started)
    assert deadlines.start(lambda: None, name="key", subject="d").is_started


def test_thread_has_the_callers_context() -> None:
    """Context variables of the request, such as its id, are set in the thread."""
    request_id = contextvars.ContextVar("request_id", default="none")
    request_id.set("rq-1")

    assert Deadlines().within(5, request_id.get, name="key") == "rq-1"


def test_threads_are_used_again(released: Event) -> None:
    """With *idle*, work one after the other runs in one thread, unless that hangs."""
    deadlines = Deadlines(per_subject=2, idle=2)
    hanging = deadlines.start(released.wait, name="hang")
    assert deadlines.within(5, lambda: 7, name="hang") == 7
    released.set()
    assert hanging.wait(5)
    assert deadlines.within(5, lambda: 8, name="hang") == 8

    threads = {
        deadlines.within(5, threading.current_thread, name="idle") for _ in range(50)
    }

    assert len(threads) == 1


def test_failure_to_start_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the work counts as late and takes no room."""
    deadlines = Deadlines()
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", _no_thread)
        with pytest.raises(BackendUnavailableError):
            deadlines.within(5, lambda: 7, name="key")

    assert deadlines.within(5, lambda: 7, name="key") == 7


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
