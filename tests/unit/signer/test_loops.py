"""Work in the background is repeated until it is stopped, also after errors."""

from collections.abc import Callable

import structlog
from structlog.testing import capture_logs

from signer.errors import StoreUnavailableError
from signer.loops import repeat


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
