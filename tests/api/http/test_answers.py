"""A repeated request gets the first answer again, byte for byte."""

import json
from datetime import timedelta

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from backends.sql import SQLStore
from signer.model.audit_record import Actor
from signer.model.refund import Refund
from signer.refunds.acceptance import ANSWER_TIMEOUT
from signer.refunds.request_body import read_refund
from tests.api.service import BODY, Pace
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.ledger import stopped
from tests.fixtures.scripted_chain import ScriptedChain


KEY = {"Idempotency_Key": "k"}


@pytest.fixture
def unanswered(container: Container) -> Refund:
    """A refund whose request ended before it could answer."""
    return container.refunds.submit(
        tenant="gateway-1",
        idempotency_key="k",
        request=read_refund(BODY),
        actor=Actor.from_token("gateway-1", "req-1", None),
    ).refund


def test_a_repeated_request_gets_the_first_answer(
    paying: TestClient, node: ScriptedChain, clock: SettableClock
) -> None:
    """R3: also a month later, when the refund has been mined."""
    first = post(paying, BODY, **KEY)
    node.mine()
    clock.advance(timedelta(days=31).total_seconds())
    body = json.dumps(dict(reversed(BODY.items())), indent=1)
    headers = bearer(clock.now) | {"Content_Type": "application/json; charset=UTF-8"}
    again = [post(paying, body, **KEY, **headers) for _ in range(2)]

    assert first.json["status"] == "broadcast"
    assert [each.content for each in again] == [first.content] * 2
    assert {each.status_code for each in again} == {200}
    assert {each.headers["idempotent-replayed"] for each in again} == {"true"}
    assert {each.headers["content-type"] for each in again} == {"application/json"}
    assert {each.headers["location"] for each in again} == {first.headers["location"]}
    assert len(node.broadcasts) == 1


def test_the_current_status_is_not_in_a_repeated_answer(
    paying: TestClient, clock: SettableClock, sqlite_store: SQLStore
) -> None:
    stopped(sqlite_store, at=clock.now)
    first = post(paying, BODY, **KEY)
    clock.advance(1)
    path = first.headers["location"]
    paying.simulate_post(f"{path}/cancel", headers=bearer(clock.now))
    replayed = post(paying, BODY, **KEY)

    assert get(paying, path).json["status"] == "cancelled"
    assert replayed.json["status"] == "queued"
    assert replayed.content == first.content


def test_a_request_in_progress_is_a_conflict(client: TestClient, pace: Pace) -> None:
    """R1: until the first request is answered, a second one gets a 409 to retry."""
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


def test_a_mismatch_is_reported_before_a_request_in_progress(
    client: TestClient, pace: Pace
) -> None:
    """R2"""
    seconds: list[Result] = []
    other = BODY | {"amount": "1"}
    pace.meanwhile = lambda: seconds.append(post(client, other, **KEY))
    post(client, BODY, Prefer="wait=1", **KEY)

    assert {each.json["code"] for each in seconds} == {"idempotency-mismatch"}


def test_a_later_request_answers_for_one_that_ended(
    client: TestClient, clock: SettableClock, unanswered: Refund
) -> None:
    """It waits for the timeout of the first request."""
    early = post(client, BODY, **KEY)
    clock.advance(ANSWER_TIMEOUT.total_seconds())
    answered, again = post(client, BODY, **KEY), post(client, BODY, **KEY)

    assert (early.status_code, early.json["code"]) == (409, "request-in-progress")
    assert (answered.status_code, answered.json["id"]) == (200, unanswered.id)
    assert answered.headers["idempotent-replayed"] == "true"
    assert answered.headers["location"] == f"/v1/refunds/{unanswered.id}"
    assert again.content == answered.content


def test_a_slow_request_gives_the_answer_of_the_other(
    client: TestClient, pace: Pace, clock: SettableClock
) -> None:
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
def test_a_wrong_clock_delays_no_request(
    client: TestClient, clock: SettableClock, unanswered: Refund, hours: int
) -> None:
    """R30: a request with an impossible age is not in progress."""
    clock.advance(hours * 3600)
    answer = post(client, BODY, **KEY, **bearer(clock.now))

    assert (answer.status_code, answer.json["id"]) == (200, unanswered.id)


def test_a_refused_request_leaves_its_key_unused(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    refused = post(client, BODY | {"amount": "1000.01"}, **KEY)
    accepted = post(client, BODY, **KEY)

    assert (refused.status_code, accepted.status_code) == (422, 201)
    assert accepted.text == sqlite_store.answer(accepted.json["id"])
