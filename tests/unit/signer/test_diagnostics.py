"""Checks run in order, never raise, and report a cause once."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from signer.diagnostics import Check, CheckResult, Finding, State, run_checks
from signer.errors import (
    ConfigurationError,
    KeyNotFoundError,
    Refusal,
    StoreUnavailableError,
)


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
