"""A refund can be cancelled while it is queued."""

from datetime import timedelta
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from backends.sql import SQLStore
from signer.errors import ChainUnavailableError
from signer.model.refund import Refund, Status
from signer.refunds.service import WORKER_SECONDS
from tests.api.service import BODY, Pace
from tests.api.support import NOW, SettableClock, bearer, get, post
from tests.fixtures.ledger import reserved, save, step_to, stopped
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.ledgers import seal
from tests.support.refunds import altered


def _cancel(client: TestClient, path: str, query: str = "", **claims: Any) -> Result:
    return client.simulate_post(f"{path}/cancel{query}", headers=bearer(**claims))


@pytest.fixture
def queued(paying: TestClient, sqlite_store: SQLStore) -> str:
    """The path of a refund without a nonce."""
    stopped(sqlite_store, at=NOW)
    return str(post(paying, BODY).headers["location"])


def test_a_queued_refund_is_cancelled(
    paying: TestClient, queued: str, clock: SettableClock
) -> None:
    clock.advance(2)
    answer = _cancel(paying, queued)

    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    assert answer.json["updated_at"] == "2026-11-24T12:00:02.000000Z"
    assert answer.json["failure"] is None
    assert answer.json == get(paying, queued).json


def test_cancelling_twice_gives_the_same_answer(
    paying: TestClient, queued: str, clock: SettableClock
) -> None:
    first = _cancel(paying, queued)
    clock.advance(60)
    again = _cancel(paying, queued)

    assert (again.status_code, again.json) == (200, first.json)


def test_a_refund_with_a_nonce_is_not_cancellable(
    paying: TestClient, node: ScriptedChain
) -> None:
    """R26: 409, and the detail has its status."""
    path = post(paying, BODY).headers["location"]
    answer = _cancel(paying, path)

    assert (answer.status_code, answer.json["code"]) == (409, "not-cancellable")
    assert "broadcast" in answer.json["detail"]
    assert get(paying, path).json["status"] == "broadcast"
    assert len(node.pool) == 1


def test_a_refused_refund_is_not_cancellable(
    paying: TestClient, queued: str, sqlite_store: SQLStore
) -> None:
    (refund,) = sqlite_store.list("gateway-1").refunds
    save(sqlite_store, refund, step_to(refund, Status.REFUSED, refund.updated_at))
    answer = _cancel(paying, queued)

    assert (answer.status_code, answer.json["code"]) == (409, "not-cancellable")


def test_cancelling_needs_the_chain(
    paying: TestClient,
    queued: str,
    node: ScriptedChain,
    clock: SettableClock,
    pace: Pace,
) -> None:
    """R24: only the chain shows whether the ledger lacks a payment; until then 202."""
    errors = [ChainUnavailableError("no node answers")] * 99
    node.fail("pending_count", *errors)
    clock.advance(2)
    pace.slept = 0
    answer = _cancel(paying, queued)
    again = _cancel(paying, queued)

    assert [each.status_code for each in (answer, again)] == [202, 202]
    assert answer.json["status"] == "queued"
    assert answer.json["cancel_requested_at"] == "2026-11-24T12:00:02.000000Z"
    assert answer.json == again.json == get(paying, queued).json
    assert WORKER_SECONDS * 2 <= pace.slept < WORKER_SECONDS * 2 + 1
    assert len(errors) > len(node._errors["pending_count"]) > 0


def test_the_request_stays_in_force(
    paying: TestClient,
    paying_container: Container,
    queued: str,
    node: ScriptedChain,
    clock: SettableClock,
) -> None:
    """A worker cancels the refund when the node answers again, unasked."""
    node.fail("pending_count", *[ChainUnavailableError("no node answers")] * 99)
    _cancel(paying, queued)
    node._errors.clear()
    clock.advance(60)
    paying_container.worker.work()

    assert get(paying, queued).json["status"] == "cancelled"
    assert _cancel(paying, queued).status_code == 200
    assert node.broadcasts == []


def test_request_and_cancellation_are_audited(
    paying: TestClient, queued: str, sqlite_store: SQLStore
) -> None:
    """Once each: the caller asked, and the worker cancelled."""
    for _ in range(2):
        _cancel(paying, queued, sub="gateway-1", jti="fedcba9876543210")
    seal(sqlite_store)
    fields = [each.record.fields for each in sqlite_store.sealed(0, 100)]
    records = [each for each in fields if each["event"].startswith("refund-cancel")]
    # Of one millisecond: their order is not that of the events.
    asked, done = sorted(records, key=lambda each: str(each["event"]))

    assert (asked["event"], asked["actor"]) == (
        "refund-cancel-requested",
        "token:gateway-1",
    )
    assert asked["token_id"] == "fedcba9876543210"
    assert asked["request_id"].startswith("req_")
    assert (done["event"], done["actor"]) == ("refund-cancel-succeeded", "worker")
    for each in records:
        assert each["details"]["refund_id"] == queued.rsplit("/", 1)[1]
        assert each["details"]["amount"] == "12.500000"


def test_a_worker_may_be_faster(
    client: TestClient, container: Container, sqlite_store: SQLStore
) -> None:
    """R26: it gives the refund its nonce just before the request is stored."""
    path = post(client, BODY).headers["location"]
    container.worker = altered(container.worker, advance=lambda: 0)

    def request(refund: Refund, *given: Any) -> bool:
        reserved(sqlite_store, refund)
        return sqlite_store.request_cancellation(refund, *given)

    store = altered(container.refunds._store, request_cancellation=request)
    container.refunds._store = store
    answer = _cancel(client, path)
    shown = get(client, path).json

    assert (answer.status_code, answer.json["code"]) == (409, "not-cancellable")
    assert "reserved" in answer.json["detail"]
    assert shown["status"] == "reserved"
    assert shown["cancel_requested_at"] is None


def test_a_cancelled_refund_is_never_paid(
    paying: TestClient, node: ScriptedChain, sqlite_store: SQLStore
) -> None:
    """R26: its key and its reference stay used."""
    node.revert, node.balance_left = "empty", 0  # The refund waits for a top-up.
    first = post(paying, BODY, Idempotency_Key="k")
    _cancel(paying, first.headers["location"])
    node.revert, node.balance_left = None, 10**12
    replayed = post(paying, BODY, Idempotency_Key="k")
    under_another_key = post(paying, BODY)

    assert first.json["status"] == "queued"
    assert (replayed.json["id"], replayed.json["status"]) == (
        first.json["id"],
        "cancelled",
    )
    assert under_another_key.json["code"] == "conflict"
    assert sqlite_store.claim(NOW + timedelta(hours=1), NOW, 9) == ()
    assert node.broadcasts == []
