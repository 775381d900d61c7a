"""The answer is stored with the acceptance, by the worker, or at the end."""

import json
from collections.abc import Callable

import pytest
from falcon.testing import TestClient
from sqlalchemy import event

from api.container import Container
from backends.sql import SQLStore
from tests.api.service import BODY, Pace
from tests.api.support import SettableClock, get, post
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.refunds import altered


Commits = Callable[[], int]


@pytest.fixture
def commits(sqlite_store: SQLStore) -> Commits:
    """A function that returns how many transactions were committed since."""
    count = 0

    def note(_: object) -> None:
        nonlocal count
        count += 1

    event.listen(sqlite_store._database._process().engine, "commit", note)
    return lambda: count


def _stored(store: SQLStore, location: str) -> str | None:
    return store.answer(location.rpartition("/")[2])


def test_an_answer_without_waiting_needs_one_commit(
    paying: TestClient, sqlite_store: SQLStore, commits: Commits
) -> None:
    """It is stored when the refund is accepted; later moves do not change it."""
    before = commits()
    answer = post(paying, BODY, Prefer="respond-async", Idempotency_Key="k")
    needed = commits() - before
    sent = post(paying, BODY | {"reference": "other"})  # The worker sends both.
    again = post(paying, BODY, Idempotency_Key="k")

    assert needed == 1
    assert answer.json["status"] == "queued"
    assert sent.json["status"] == "broadcast"
    assert get(paying, answer.headers["location"]).json["status"] == "broadcast"
    assert (again.status_code, again.text) == (200, answer.text)
    assert _stored(sqlite_store, answer.headers["location"]) == answer.text


def test_the_worker_stores_the_answer(
    paying: TestClient,
    paying_container: Container,
    sqlite_store: SQLStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request sends what the worker stored, and stores nothing itself."""

    def forbidden(*_: object) -> str:
        pytest.fail("the API stored an answer")

    monkeypatch.setattr(paying_container.refunds, "remember_answer", forbidden)
    answer = post(paying, BODY, Idempotency_Key="k")
    again = post(paying, BODY, Idempotency_Key="k")

    assert answer.json["status"] == "broadcast"
    assert answer.json["tx_hash"] is not None
    assert answer.json == get(paying, answer.headers["location"]).json
    assert _stored(sqlite_store, answer.headers["location"]) == answer.text
    assert (again.status_code, again.text) == (200, answer.text)


def test_a_request_that_died_is_answered_by_the_worker(
    paying: TestClient,
    paying_container: Container,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A repeated request need not wait ten seconds, and sees the hash."""

    def died(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(paying_container.refunds, "await_broadcast", died)
        assert post(paying, BODY, Idempotency_Key="k").status_code == 500
    early = post(paying, BODY, Idempotency_Key="k")
    paying_container.worker.work()
    late = post(paying, BODY, Idempotency_Key="k")

    assert (early.status_code, early.json["code"]) == (409, "request-in-progress")
    assert (late.status_code, late.json["status"]) == (200, "broadcast")


def test_a_request_that_waits_for_the_end_answers_itself(
    paying: TestClient,
    paying_container: Container,
    sqlite_store: SQLStore,
    node: ScriptedChain,
    pace: Pace,
) -> None:
    """The worker leaves the answer to it; a repetition waits until there is one."""
    repeated = []

    def meanwhile() -> None:
        (refund,) = sqlite_store.list("gateway-1").refunds
        repeated.append(post(paying, BODY, Idempotency_Key="k"))
        assert sqlite_store.answer(refund.id) is None
        for _ in range(3):
            node.mine()
        paying_container.worker.work()

    pace.meanwhile = meanwhile
    answer = post(paying, BODY, Prefer="wait=10", Idempotency_Key="k")
    again = post(paying, BODY, Idempotency_Key="k")

    assert {(each.status_code, each.json["code"]) for each in repeated} == {
        (409, "request-in-progress")
    }
    assert answer.headers["preference-applied"] == "wait=10"
    assert (again.status_code, again.text) == (200, answer.text)
    assert _stored(sqlite_store, answer.headers["location"]) == answer.text


def test_an_abandoned_wait_is_answered_by_a_repetition(
    paying: TestClient,
    paying_container: Container,
    clock: SettableClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its empty answer is replaced after ten seconds, once."""

    def died(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(paying_container.refunds, "wait", died)
        post(paying, BODY, Prefer="wait=10", Idempotency_Key="k")
    paying_container.worker.work()
    early = post(paying, BODY, Idempotency_Key="k")
    clock.advance(11)
    late, again = (post(paying, BODY, Idempotency_Key="k") for _ in range(2))

    assert early.status_code == 409
    assert (late.status_code, late.json["status"]) == (200, "broadcast")
    assert again.text == late.text


def test_a_refund_that_is_not_sent_in_time_is_answered_as_it_is(
    paying: TestClient, paying_container: Container, sqlite_store: SQLStore
) -> None:
    """The worker, which sends it later, does not change the answer."""
    worker = paying_container.worker
    paying_container.worker = altered(worker, advance=lambda: 0)
    answer = post(paying, BODY, Idempotency_Key="k")
    paying_container.worker = worker
    worker.work()
    again = post(paying, BODY, Idempotency_Key="k")

    assert answer.json["status"] == "queued"
    assert get(paying, answer.headers["location"]).json["status"] == "broadcast"
    assert again.text == answer.text
    assert json.loads(_stored(sqlite_store, answer.headers["location"]) or "") == (
        answer.json
    )
