"""A refund can be called back while it is queued, and not a moment longer."""

from datetime import timedelta
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from backends.sql import SQLStore
from signer.model.refund import Status
from tests.api.service import BODY
from tests.api.support import NOW, SettableClock, bearer, get, post
from tests.fixtures.scripted_chain import ScriptedChain


def _cancel(client: TestClient, path: str, query: str = "", **claims: Any) -> Result:
    return client.simulate_post(f"{path}/cancel{query}", headers=bearer(**claims))


@pytest.fixture
def queued(paying: TestClient, sqlite_store: SQLStore) -> str:
    """Return the path of a refund that has no nonce yet, as none is given out."""
    sqlite_store.pause_network(31337, NOW)
    return str(post(paying, BODY).headers["location"])


def test_a_queued_refund_is_cancelled(
    paying: TestClient, queued: str, clock: SettableClock
) -> None:
    """200 and the refund, cancelled; nothing will be paid."""
    clock.advance(2)
    answer = _cancel(paying, queued)

    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    assert answer.json["updated_at"] == "2026-11-24T12:00:02.000000Z"
    assert answer.json["failure"] is None
    assert answer.json == get(paying, queued).json


def test_again_is_fine(paying: TestClient, queued: str, clock: SettableClock) -> None:
    """Whoever lost the answer may ask again, and is told the same."""
    first = _cancel(paying, queued)
    clock.advance(60)
    again = _cancel(paying, queued)

    assert (again.status_code, again.json) == (200, first.json)


def test_what_has_a_nonce_is_on_its_way(
    paying: TestClient, node: ScriptedChain
) -> None:
    """R26: a refund that has its nonce is paid: 409, and it says how far it is."""
    path = post(paying, BODY).headers["location"]
    answer = _cancel(paying, path)

    assert (answer.status_code, answer.json["code"]) == (409, "not-cancellable")
    assert "broadcast" in answer.json["detail"]
    assert get(paying, path).json["status"] == "broadcast"
    assert len(node.pool) == 1


def test_an_end_is_an_end(
    paying: TestClient, queued: str, sqlite_store: SQLStore
) -> None:
    """What was refused cannot be cancelled any more."""
    (refund,) = sqlite_store.list("gateway-1").refunds
    sqlite_store.save(refund, refund.with_status(Status.REFUSED, refund.updated_at))
    answer = _cancel(paying, queued)

    assert (answer.status_code, answer.json["code"]) == (409, "not-cancellable")


def test_only_ones_own(paying: TestClient, queued: str) -> None:
    """Somebody else's refund is not there, and stays as it is."""
    answer = _cancel(paying, queued, sub="gateway-2")

    assert (answer.status_code, answer.json["code"]) == (404, "not-found")
    assert get(paying, queued).json["status"] == "queued"


def test_queries_are_strict(paying: TestClient, queued: str) -> None:
    """A parameter that means nothing here cancels nothing."""
    answer = _cancel(paying, queued, "?force=true")

    assert (answer.status_code, answer.json["code"]) == (400, "invalid-input")
    assert get(paying, queued).json["status"] == "queued"


def test_without_the_chain_nothing_is_cancelled(client: TestClient) -> None:
    """R24: whether a ledger has forgotten a payment, only the chain can say."""
    path = post(client, BODY).headers["location"]
    answer = _cancel(client, path)

    assert (answer.status_code, answer.json["code"]) == (503, "chain-unavailable")
    assert answer.headers["retry-after"] == "5"
    assert get(client, path).json["status"] == "queued"


def test_what_was_cancelled_is_never_paid(
    paying: TestClient, node: ScriptedChain, sqlite_store: SQLStore
) -> None:
    """R26: the key and the reference of a cancelled refund stay taken."""
    node.revert, node.balance_left = "empty", 0  # The refund waits for a top-up.
    first = post(paying, BODY, Idempotency_Key="k")
    _cancel(paying, first.headers["location"])
    node.revert, node.balance_left = None, 10**12
    replayed = post(paying, BODY, Idempotency_Key="k")
    under_another_key = post(paying, BODY)

    assert first.json["status"] == "queued"
    assert replayed.content == first.content
    assert under_another_key.json["code"] == "conflict"
    assert sqlite_store.claim(NOW + timedelta(hours=1), NOW, 9) == ()
    assert node.broadcasts == []
