"""A refund can be cancelled while it is queued."""

from datetime import timedelta
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from backends.sql import SQLStore
from signer.errors import ChainUnavailableError
from signer.refunds.service import WORKER_SECONDS
from tests.api.service import BODY, Pace
from tests.api.support import NOW, SettableClock, bearer, get, post
from tests.fixtures.ledger import stopped
from tests.fixtures.scripted_chain import ScriptedChain


def _cancel(client: TestClient, path: str, query: str = "", **claims: Any) -> Result:
    return client.simulate_post(f"{path}/cancel{query}", headers=bearer(**claims))


@pytest.fixture
def queued(paying: TestClient, sqlite_store: SQLStore) -> str:
    stopped(sqlite_store, at=NOW)
    return str(post(paying, BODY).headers["location"])


def test_a_queued_refund_is_cancelled(
    paying: TestClient, queued: str, clock: SettableClock
) -> None:
    """Cancelling it twice gives the same answer."""
    clock.advance(2)
    answer = _cancel(paying, queued)
    clock.advance(60)
    again = _cancel(paying, queued)

    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    assert answer.json["updated_at"] == "2026-11-24T12:00:02.000000Z"
    assert answer.json["failure"] is None
    assert answer.json == get(paying, queued).json
    assert (again.status_code, again.json) == (200, answer.json)


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
