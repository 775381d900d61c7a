"""A request is answered once: whoever repeats it is told the same, byte for byte."""

from datetime import timedelta

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.views.refunds import read_refund
from backends.sql import SQLStore
from signer.model.refund import Refund
from signer.refunds.service import ANSWER_TIMEOUT
from tests.api.service import BODY, Pace
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.scripted_chain import ScriptedChain


KEY = {"Idempotency_Key": "k"}


@pytest.fixture
def dead(container: Container) -> Refund:
    """Return what a request accepted that died before it could answer."""
    return container.refunds.submit(
        client="gateway-1",
        idempotency_key="k",
        request=read_refund(BODY),
        request_id="req-1",
    ).refund


def test_the_first_answer_is_given_for_ever(
    paying: TestClient, node: ScriptedChain, clock: SettableClock
) -> None:
    """R3: a month later, with the refund long mined, the answer is what it was."""
    first = post(paying, BODY, **KEY)
    node.mine()
    clock.advance(timedelta(days=31).total_seconds())
    again = [post(paying, BODY, **KEY, **bearer(clock.now)) for _ in range(2)]

    assert first.json["status"] == "broadcast"
    assert [each.content for each in again] == [first.content] * 2
    assert {each.status_code for each in again} == {200}
    assert {each.headers["idempotent-replayed"] for each in again} == {"true"}
    assert {each.headers["content-type"] for each in again} == {"application/json"}
    assert len(node.broadcasts) == 1


def test_how_it_stands_is_another_question(
    paying: TestClient, clock: SettableClock, sqlite_store: SQLStore
) -> None:
    """A refund that moved on is told as it is by its own path, and not by a replay."""
    sqlite_store.pause_network(31337, clock.now)
    first = post(paying, BODY, **KEY)
    clock.advance(1)
    path = first.headers["location"]
    paying.simulate_post(f"{path}/cancel", headers=bearer(clock.now))
    replayed = post(paying, BODY, **KEY)

    assert get(paying, path).json["status"] == "cancelled"
    assert replayed.json["status"] == "queued"
    assert replayed.content == first.content


def test_a_request_under_way_is_told_so(client: TestClient, pace: Pace) -> None:
    """R1: while the first request has no answer, a second one is a 409 to repeat."""
    seconds: list[Result] = []
    pace.meanwhile = lambda: seconds.append(post(client, BODY, **KEY))
    first = post(client, BODY, Prefer="wait=1", **KEY)
    third = post(client, BODY, **KEY)

    assert first.status_code == 201
    assert {(each.status_code, each.json["code"]) for each in seconds} == {
        (409, "request-in-progress")
    }
    assert {each.headers["retry-after"] for each in seconds} == {"1"}
    assert {"idempotent-replayed" in each.headers for each in seconds} == {False}
    assert third.content == first.content


def test_another_body_is_another_request(client: TestClient, pace: Pace) -> None:
    """R2: a mismatch is told before anybody is asked to wait."""
    seconds: list[Result] = []
    other = BODY | {"amount": "1"}
    pace.meanwhile = lambda: seconds.append(post(client, other, **KEY))
    post(client, BODY, Prefer="wait=1", **KEY)

    assert {each.json["code"] for each in seconds} == {"idempotency-mismatch"}


def test_a_dead_requests_answer_is_given_by_the_next(
    client: TestClient, clock: SettableClock, dead: Refund
) -> None:
    """A request that died is waited for, and then answered by whoever repeats it."""
    early = post(client, BODY, **KEY)
    clock.advance(ANSWER_TIMEOUT.total_seconds())
    answered, again = post(client, BODY, **KEY), post(client, BODY, **KEY)

    assert (early.status_code, early.json["code"]) == (409, "request-in-progress")
    assert (answered.status_code, answered.json["id"]) == (200, dead.id)
    assert answered.headers["idempotent-replayed"] == "true"
    assert answered.headers["location"] == f"/v1/refunds/{dead.id}"
    assert again.content == answered.content


def test_a_slow_request_says_what_was_said(
    client: TestClient, pace: Pace, clock: SettableClock
) -> None:
    """When somebody else has answered for a slow request, it gives the same answer."""
    seconds: list[Result] = []

    def answer() -> None:
        clock.advance(ANSWER_TIMEOUT.total_seconds())
        seconds.append(post(client, BODY, **KEY))

    pace.meanwhile = answer
    first = post(client, BODY, Prefer="wait=1", **KEY)

    assert first.status_code == 201
    assert {each.status_code for each in seconds} == {200}
    assert {first.content} == {each.content for each in seconds}


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_was_wrong_keeps_nobody_waiting(
    client: TestClient, clock: SettableClock, dead: Refund, hours: int
) -> None:
    """R30: an age that cannot be, in either direction, is no request under way."""
    clock.advance(hours * 3600)
    answer = post(client, BODY, **KEY, **bearer(clock.now))

    assert (answer.status_code, answer.json["id"]) == (200, dead.id)


def test_no_answer_is_kept_of_a_refusal(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    """What was not accepted has no answer: mended, the same key may ask again."""
    refused = post(client, BODY | {"amount": "1000.01"}, **KEY)
    accepted = post(client, BODY, **KEY)

    assert (refused.status_code, accepted.status_code) == (422, 201)
    assert accepted.text == sqlite_store.answer(accepted.json["id"])
