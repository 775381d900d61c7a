"""The circuit breaker, on a timer of the test."""

import threading
from collections.abc import Callable

import pytest

from backends.circuit_breaker import RETRY_SECONDS, CircuitBreaker
from tests.support.waiting import Timer


CALL_SECONDS = 5.0


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def breaker(timer: Timer) -> CircuitBreaker:
    """A breaker that a timeout has opened."""
    breaker = CircuitBreaker(CALL_SECONDS, timer)
    assert breaker.admits()
    breaker.record_timeout()
    return breaker


def _in_another_thread(question: Callable[[], bool]) -> bool:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(question()))
    thread.start()
    thread.join()
    return answers[0]


def test_calls_fail_at_once_after_a_timeout(
    breaker: CircuitBreaker, timer: Timer
) -> None:
    timer.now += RETRY_SECONDS - 0.01

    assert not breaker.admits()


def test_one_thread_tries_at_a_time(breaker: CircuitBreaker, timer: Timer) -> None:
    """It may call several times: ping a connection, and open another one."""
    timer.now += RETRY_SECONDS

    assert breaker.admits()
    assert breaker.admits()
    assert not _in_another_thread(breaker.admits)


def test_another_thread_tries_if_the_first_never_reports(
    breaker: CircuitBreaker, timer: Timer
) -> None:
    timer.now += RETRY_SECONDS
    assert breaker.admits()
    timer.now += CALL_SECONDS

    assert _in_another_thread(breaker.admits)
    assert not breaker.admits()


def test_a_further_timeout_begins_another_pause(
    breaker: CircuitBreaker, timer: Timer
) -> None:
    timer.now += RETRY_SECONDS
    assert breaker.admits()
    breaker.record_timeout()

    assert not breaker.admits()
    timer.now += RETRY_SECONDS
    assert breaker.admits()


def test_an_answer_admits_all_threads(breaker: CircuitBreaker) -> None:
    """Also a late one, of a call that began before the timeout."""
    breaker.record_answer()

    assert breaker.admits()
    assert _in_another_thread(breaker.admits)
