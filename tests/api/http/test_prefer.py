"""``Prefer: wait=N`` waits for a final status."""

import pytest
from falcon.testing import TestClient

from backends.sql import SQLStore
from signer.model.refund import Status
from tests.api.service import BODY, Pace
from tests.api.support import bearer, post


@pytest.fixture
def refund_path(client: TestClient) -> str:
    """The path of a refund that waits for a node."""
    return str(post(client, BODY).headers["location"])


def _refuse_all(store: SQLStore, *, when: bool = True) -> None:
    for refund in store.list("gateway-1").refunds:
        if when and refund.status is Status.QUEUED:
            store.save(refund, refund.with_status(Status.REFUSED, refund.updated_at))


def test_a_post_waits_for_a_final_status(
    client: TestClient, pace: Pace, sqlite_store: SQLStore
) -> None:
    """A repeated request gets the same answer."""
    pace.meanwhile = lambda: _refuse_all(sqlite_store, when=pace.slept >= 2)
    answer = post(client, BODY, Prefer="wait=10", Idempotency_Key="k")
    replayed = post(client, BODY, Idempotency_Key="k")

    assert (answer.status_code, answer.json["status"]) == (201, "refused")
    assert answer.headers["preference-applied"] == "wait=10"
    assert 2 <= pace.slept < 3
    assert replayed.content == answer.content


def test_a_get_waits_for_a_final_status(
    client: TestClient, refund_path: str, pace: Pace, sqlite_store: SQLStore
) -> None:
    pace.meanwhile = lambda: _refuse_all(sqlite_store, when=pace.slept >= 2)
    headers = bearer() | {"Prefer": "wait=10"}
    answer = client.simulate_get(refund_path, headers=headers)

    assert (answer.status_code, answer.json["status"]) == (200, "refused")
    assert answer.headers["preference-applied"] == "wait=10"


@pytest.mark.parametrize(
    ("preference", "applied", "slept"),
    [
        ("wait=3", "wait=3", 3),
        ("wait=20", "wait=20", 20),
        ("wait=600", "wait=20", 20),
        ("wait=999999", "wait=20", 20),
        ("WAIT = 3", "wait=3", 3),
        ('wait="3"', "wait=3", 3),
        ("respond-async, wait=3; foo", "wait=3", 3),
        ("wait=0", "wait=0", 0),
    ],
)
def test_waits_at_most_twenty_seconds(
    client: TestClient,
    refund_path: str,
    pace: Pace,
    preference: str,
    applied: str,
    slept: float,
) -> None:
    headers = bearer() | {"Prefer": preference}
    answer = client.simulate_get(refund_path, headers=headers)

    assert (answer.status_code, answer.json["status"]) == (200, "queued")
    assert applied == answer.headers["preference-applied"]
    assert slept <= pace.slept < slept + 0.3


@pytest.mark.parametrize(
    "preference",
    ["", "respond-async", "wait", "wait=", "wait=-1", "wait=1.5", "wait=1h", "waits=1"],
)
def test_other_preferences_are_ignored(
    client: TestClient, refund_path: str, pace: Pace, preference: str
) -> None:
    """RFC 7240: an unknown preference is no error, and is not reported as applied."""
    headers = bearer() | {"Prefer": preference}
    answer = client.simulate_get(refund_path, headers=headers)

    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers
    assert pace.slept == 0


def test_two_different_waits_are_refused(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    answer = post(client, BODY, Prefer="wait=1, wait=2")

    assert (answer.status_code, answer.json["field"]) == (400, "Prefer")
    assert sqlite_store.list("gateway-1").refunds == ()


def test_a_final_refund_is_returned_at_once(
    client: TestClient, refund_path: str, pace: Pace, sqlite_store: SQLStore
) -> None:
    _refuse_all(sqlite_store)
    headers = bearer() | {"Prefer": "wait=20"}
    answer = client.simulate_get(refund_path, headers=headers)

    assert answer.json["status"] == "refused"
    assert pace.slept == 0
