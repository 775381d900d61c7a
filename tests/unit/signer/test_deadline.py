"""Late work, work in the background, and checks that run in order."""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from threading import Event

import pytest
import structlog
from structlog.testing import capture_logs

from signer.deadline import Deadlines
from signer.diagnostics import Check, CheckResult, Finding, State, run_checks
from signer.errors import (
    BackendUnavailableError,
    ConfigurationError,
    KeyNotFoundError,
    Refusal,
    StoreUnavailableError,
)
from signer.loops import repeat


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


# Work in the background is repeated until it is stopped, also after errors.


def _run(*rounds: Callable[[], float | None], at_once: bool = False) -> list[object]:
    """Return the pauses between *rounds*, and what each logged."""
    seen: list[object] = []
    left = iter(rounds)
    done = 0

    def work() -> float | None:
        nonlocal done
        done += 1
        return next(left)()

    def wait(seconds: float) -> bool:
        seen.append(seconds)
        return done == len(rounds)

    log = structlog.get_logger("test")
    with capture_logs() as logs:
        repeat(work, wait, 5.0, log=log, event="work-failed", at_once=at_once)
    assert done == len(rounds)
    return [*seen, *((each["log_level"], each["code"]) for each in logs)]


def _unavailable() -> None:
    raise StoreUnavailableError("down")


def test_rounds_follow_each_other_after_a_pause() -> None:
    assert _run(lambda: None, lambda: None) == [5.0, 5.0, 5.0]


def test_a_round_chooses_the_next_pause_only() -> None:
    assert _run(lambda: 0.0, lambda: None, lambda: 9.0) == [5.0, 0.0, 5.0, 9.0]


def test_the_first_round_can_begin_at_once() -> None:
    assert _run(lambda: 1.0, at_once=True) == [1.0]


def test_an_error_ends_one_round_and_a_bug_too() -> None:
    """The pause after either is the usual one."""
    assert _run(lambda: 1.0, _unavailable, lambda: 1 / 0, lambda: None) == [
        *(5.0, 1.0, 5.0, 5.0, 5.0),
        ("warning", "store-unavailable"),
        ("error", "internal-error"),
    ]


# Checks run in order, never raise, and report a cause once.

CANARY = "canary-48213"


def _finding(detail: str = "well") -> Callable[[], Finding]:
    return lambda: Finding(detail)


def _failing(error: Exception) -> Callable[[], Finding]:
    def look() -> Finding:
        raise error

    return look


def _outcomes(*steps: Check) -> list[tuple[str, str]]:
    return [(result.name, str(result.state)) for result in run_checks(steps)]


def test_checks_that_need_a_failed_check_are_skipped() -> None:
    """One broken device is one failure, however many checks depend on it."""
    assert _outcomes(
        Check("device", _failing(KeyNotFoundError("no such key")), "mend it"),
        Check("database", _finding(), ""),
        Check("signature", _finding(), "", ("database", "device")),
        Check("mined", _finding(), "", ("signature",)),
        Check("audit", _finding(), "", ("database",)),
        Check("guard", lambda: Finding("not safe", "nothing on a laptop"), ""),
        Check("policy", _finding(), "", ("guard",)),
    ) == [
        ("device", "failed"),
        ("database", "ok"),
        ("signature", "skipped"),
        ("mined", "skipped"),
        ("audit", "ok"),
        ("guard", "warning"),
        ("policy", "ok"),
    ]


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (
            KeyNotFoundError("there is no such key"),
            "key-not-found: there is no such key",
        ),
        (
            ConfigurationError(Refusal("a-b", "do this"), Refusal("c-d", "and that")),
            "a-b: do this; c-d: and that",
        ),
        (ValueError(CANARY), "internal-error: ValueError"),
        (
            StoreUnavailableError("postgresql://u:canary@h/d is down"),
            "store-unavailable: [redacted] is down",
        ),
    ],
)
def test_details_of_failures(error: Exception, detail: str) -> None:
    """Our errors have code and message; other errors only their class."""
    (result,) = run_checks([Check("device", _failing(error), "explain CODE")])
    code = detail.partition(":")[0]

    cure = f"explain {code}"
    assert result == CheckResult("device", State.FAILED, detail, cure, code)


def test_a_check_that_hangs_fails_at_its_deadline() -> None:
    """The checks after it still run."""
    released = threading.Event()
    began = time.monotonic()

    def hang() -> Finding:
        released.wait()
        return Finding("late")

    steps = [Check("device", hang, "unplug it"), Check("database", _finding(), "")]
    found = [str(result.state) for result in run_checks(steps, seconds=2.5)]
    released.set()

    assert found == ["failed", "ok"]
    assert time.monotonic() - began < 10


def test_a_generator_of_checks_sees_earlier_results() -> None:
    """What one check finds may decide which checks follow."""
    seen: list[str] = []

    def look() -> Finding:
        seen.append("base")
        return Finding("one network")

    def steps() -> Iterator[Check]:
        yield Check("networks", look, "")
        for name in seen:
            yield Check(name, _finding(), "")

    assert [result.name for result in run_checks(steps())] == ["networks", "base"]


def test_lines_for_an_operator() -> None:
    """One line for the result, and a second one if there is a cure."""
    assert list(CheckResult("device", State.FAILED, "gone", "mend it").lines()) == [
        "failed   device             gone",
        "                            -> mend it",
    ]
    assert len(list(CheckResult("device", State.OK, "here").lines())) == 1


def test_a_named_warning_has_its_code_in_the_detail() -> None:
    """A log search for the name of the problem finds the line; the cure stays."""
    failed = Finding("gone", "start it", "database-unreachable", is_failed=True)
    (result,) = run_checks([Check("database", lambda: failed, "")])
    assert (result.state, result.code) == (State.FAILED, "database-unreachable")
    named = Finding("7 of 1 url https://u:canary@host", "add a node", "few-nodes")
    (result,) = run_checks([Check("nodes", lambda: named, "not this")])

    assert (result.state, result.code) == (State.WARNING, "few-nodes")
    assert result.detail.startswith("few-nodes: 7 of 1 url")
    assert "canary" not in result.detail
    assert result.cure == "add a node"
