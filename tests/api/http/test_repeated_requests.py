"""A repeated request gets the refund as it is now, and pays nothing again."""

import json
from datetime import timedelta

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from backends.sql import SQLStore
from tests.api.service import BODY, Pace
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.ledger import stopped
from tests.fixtures.scripted_chain import ScriptedChain


KEY = {"Idempotency_Key": "k"}


def test_a_repeated_request_gets_the_refund(
    paying: TestClient, node: ScriptedChain, clock: SettableClock
) -> None:
    """R3: also a month later."""
    first = post(paying, BODY, **KEY)
    clock.advance(timedelta(days=31).total_seconds())
    body = json.dumps(dict(reversed(BODY.items())), indent=1)
    headers = bearer(clock.now) | {"Content_Type": "application/json; charset=UTF-8"}
    again = [post(paying, body, **KEY, **headers) for _ in range(2)]

    assert first.json["status"] == "broadcast"
    assert [each.json for each in again] == [first.json] * 2
    assert {each.status_code for each in again} == {200}
    assert {each.headers["idempotent-replayed"] for each in again} == {"true"}
    assert {each.headers["content-type"] for each in again} == {"application/json"}
    assert {each.headers["location"] for each in again} == {first.headers["location"]}
    assert len(node.broadcasts) == 1


def test_a_repeated_answer_has_the_present_status(
    paying: TestClient, clock: SettableClock, sqlite_store: SQLStore
) -> None:
    stopped(sqlite_store, at=clock.now)
    first = post(paying, BODY, **KEY)
    clock.advance(1)
    path = first.headers["location"]
    paying.simulate_post(f"{path}/cancel", headers=bearer(clock.now))
    replayed = post(paying, BODY, **KEY)

    assert first.json["status"] == "queued"
    assert replayed.json["status"] == "cancelled"
    assert replayed.json == get(paying, path).json


def test_a_repetition_meets_the_first_request(client: TestClient, pace: Pace) -> None:
    """R1: while the first one waits for its end, a second one gets the same refund."""
    seconds: list[Result] = []
    pace.meanwhile = lambda: seconds.append(
        post(client, BODY, Prefer="respond-async", **KEY)
    )
    first = post(client, BODY, Prefer="wait=1", **KEY)

    assert first.status_code == 201
    assert {each.status_code for each in seconds} == {200}
    assert {each.json["id"] for each in seconds} == {first.json["id"]}
    applied = {each.headers["preference-applied"] for each in seconds}
    assert applied == {"respond-async"}


def test_a_mismatch_meets_the_first_request(client: TestClient, pace: Pace) -> None:
    """R2"""
    seconds: list[Result] = []
    other = BODY | {"amount": "1"}
    pace.meanwhile = lambda: seconds.append(post(client, other, **KEY))
    post(client, BODY, Prefer="wait=1", **KEY)

    assert {each.json["code"] for each in seconds} == {"idempotency-mismatch"}


def test_a_repetition_waits_for_the_end(
    paying: TestClient,
    paying_container: Container,
    node: ScriptedChain,
    pace: Pace,
) -> None:
    """As long as it asks for, though the first request did not wait."""
    first = post(paying, BODY, **KEY)

    def meanwhile() -> None:
        for _ in range(3):
            node.mine()
        paying_container.worker.work()

    pace.meanwhile = meanwhile
    again = post(paying, BODY, Prefer="wait=10", **KEY)

    assert first.json["status"] == "broadcast"
    assert again.headers["preference-applied"] == "wait=10"
    assert (again.status_code, again.json["status"]) == (200, "confirmed")


@pytest.mark.parametrize("wait", ["await_broadcast", "wait"])
def test_a_repetition_answers_for_a_request_that_died(
    paying: TestClient,
    paying_container: Container,
    monkeypatch: pytest.MonkeyPatch,
    wait: str,
) -> None:
    """It need not wait for anything."""

    def died(*_: object) -> None:
        raise RuntimeError("killed")

    prefer = {} if wait == "await_broadcast" else {"Prefer": "wait=10"}
    with monkeypatch.context() as patch:
        patch.setattr(paying_container.refunds, wait, died)
        assert post(paying, BODY, **KEY, **prefer).status_code == 500
    again = post(paying, BODY, **KEY)

    assert (again.status_code, again.json["status"]) == (200, "broadcast")
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wrong_clock_delays_no_request(
    client: TestClient, clock: SettableClock, hours: int
) -> None:
    """R30"""
    first = post(client, BODY, **KEY)
    clock.advance(hours * 3600)
    answer = post(client, BODY, **KEY, **bearer(clock.now))

    assert (answer.status_code, answer.json["id"]) == (200, first.json["id"])
