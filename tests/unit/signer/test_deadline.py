"""Nobody waits for what does not come, and what does not come is not piled up."""

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
    """What work that hangs waits for; it comes when the test is over."""
    event = Event()
    yield event
    event.set()


def _threads(name: str) -> int:
    return sum(thread.name == f"deadline-{name}" for thread in threading.enumerate())


def test_work_in_time_is_returned() -> None:
    """Who is quick notices nothing."""
    assert Deadlines().within(5, lambda: "signed", name="key") == "signed"


def test_an_error_goes_to_whoever_asked() -> None:
    """What the work raises is raised, bugs too."""
    with pytest.raises(ZeroDivisionError):
        Deadlines().within(5, lambda: 1 // 0, name="key")


def test_work_that_hangs_is_given_up(released: Event) -> None:
    """The caller hears of it in time, in the words that are the default."""
    began = time.monotonic()

    with pytest.raises(BackendUnavailableError):
        Deadlines().within(0.1, released.wait, name="key")

    assert 0.1 <= time.monotonic() - began < 10


def test_the_caller_names_the_error(released: Event) -> None:
    """A database that hangs is no device that hangs."""
    with pytest.raises(StoreUnavailableError):
        Deadlines().within(0.01, released.wait, name="d", late=StoreUnavailableError)


def test_what_hangs_is_not_piled_up(released: Event) -> None:
    """A hundred questions to a device that hangs leave one thread, and fail at once."""
    deadlines = Deadlines()
    with pytest.raises(BackendUnavailableError):
        deadlines.within(0.01, released.wait, name="one")
    began = time.monotonic()

    for _ in range(100):
        with pytest.raises(BackendUnavailableError):
            deadlines.within(5, released.wait, name="one")

    assert time.monotonic() - began < 10
    assert _threads("one") == 1


def test_names_do_not_stand_in_each_others_way(released: Event) -> None:
    """Of what hangs, only the same kind is refused."""
    deadlines = Deadlines()
    deadlines.start(released.wait, name="key")

    assert deadlines.within(5, lambda: 7, name="database") == 7


def test_as_many_as_are_allowed(released: Event) -> None:
    """Two may be under way where two are allowed, and not three."""
    deadlines = Deadlines(per_subject=2)
    begun = [deadlines.start(released.wait, name="two") for _ in range(3)]
    released.set()

    assert [pending.wait(5) for pending in begun] == [True, True, False]


def test_subjects_do_not_stand_in_each_others_way(released: Event) -> None:
    """Of work with one name what hangs is refused for its own subject alone."""
    deadlines = Deadlines(total=3)
    begun = [
        deadlines.start(released.wait, name="key", subject=subject)
        for subject in ("a", "a", "b", "c", "d")
    ]
    released.set()

    assert [pending.is_started for pending in begun] == [True, False, True, True, False]
    assert all(pending.wait(5) for pending in begun if pending.is_started)
    assert deadlines.start(lambda: None, name="key", subject="d").is_started


def test_what_ends_after_all_makes_room() -> None:
    """Once the device is back, it is asked again, and by whoever saw it end."""
    deadlines = Deadlines()
    for _ in range(50):
        pending = deadlines.start(lambda: None, name="key")

        assert pending.wait(5)


def test_the_thread_knows_on_whose_behalf() -> None:
    """What is bound to the request is bound in the thread too: log lines name it."""
    request_id = contextvars.ContextVar("request_id", default="none")
    request_id.set("rq-1")

    assert Deadlines().within(5, request_id.get, name="key") == "rq-1"


def test_a_system_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had, the work is late, and room stays for the next."""
    deadlines = Deadlines()
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", _no_thread)
        with pytest.raises(BackendUnavailableError):
            deadlines.within(5, lambda: 7, name="key")

    assert deadlines.within(5, lambda: 7, name="key") == 7


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
