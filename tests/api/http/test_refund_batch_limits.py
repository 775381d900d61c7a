"""Limits, races and failures of batches."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import StoreUnavailableError
from signer.model.acceptance import Acceptance
from signer.refunds.acceptance import TRANSACTION_SIZE
from tests.api.batches import codes, member, statuses, stored, submit
from tests.api.service import build_container
from tests.api.support import SettableClock, bearer, lines
from tests.support.refunds import altered


TENANTS = TenantRegistry(
    {
        "shop": Tenant(subjects=("pod-1", "pod-2"), requests_per_minute=10),
        "small": Tenant(subjects=("small",), max_open_refunds=2),
        "other": Tenant(subjects=("other",)),
    }
)


@pytest.fixture
def limited(sqlite_store: SQLStore, clock: SettableClock) -> TestClient:
    return TestClient(create_app(build_container(sqlite_store, clock, tenants=TENANTS)))


def test_tenants_are_separate(limited: TestClient) -> None:
    """A key or reference of another tenant has no effect and shows nothing."""
    mine = submit(limited, member(1), member(2), **bearer(sub="pod-1"))
    same = submit(limited, member(1), member(2), **bearer(sub="pod-2"))
    theirs = submit(limited, member(1), member(2, amount="1"), **bearer(sub="other"))

    assert [statuses(each) for each in (mine, same, theirs)] == [
        [201, 201],
        [200, 200],
        [201, 201],
    ]
    ids = [{each["refund"]["id"] for each in a.json["results"]} for a in (mine, theirs)]
    assert not ids[0] & ids[1]
    assert {each["id"] for each in stored(limited, sub="other")} == ids[1]


def test_each_member_counts_as_a_request(
    limited: TestClient, clock: SettableClock
) -> None:
    """Those over the limit are refused, and are accepted in the next minute."""
    members = [member(n) for n in range(12)]
    first = submit(limited, *members, **bearer(sub="pod-1"))
    over = submit(limited, *members, **bearer(sub="pod-1"))
    clock.advance(60)
    rest = submit(limited, *members[10:], **bearer(clock.now, sub="pod-2"))

    assert statuses(first) == [201] * 10 + [429] * 2
    assert codes(first)[10:] == ["too-many-requests"] * 2
    assert [each["retry_after"] for each in first.json["results"][10:]] == [60, 60]
    assert over.status_code == 429
    assert statuses(rest) == [201, 201]


def test_open_refunds_are_limited_across_members(limited: TestClient) -> None:
    """Repeated members are answered over the limit, too."""
    claims = bearer(sub="small")
    answers = [submit(limited, *map(member, (1, 2, 3)), **claims) for _ in range(2)]

    assert [statuses(each) for each in answers] == [[201, 201, 429], [200, 200, 429]]
    assert codes(answers[0])[2] == "too-many-open-refunds"
    assert answers[0].json["results"][2]["retry_after"] > 0
    assert len(stored(limited, sub="small")) == 2


def test_equal_batches_at_the_same_time(client: TestClient) -> None:
    """Each refund is accepted once, and both get the same answer to it."""
    members = [member(n) for n in range(40)]
    barrier = Barrier(2)

    def send_at_once(given: list[Any]) -> Result:
        barrier.wait()
        return submit(client, *given)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(send_at_once, [members, members[::-1]]))
    results = [
        {each["idempotency_key"]: each for each in answer.json["results"]}
        for answer in answers
    ]

    for number in range(40):
        one, other = (of_one[f"key-{number}"] for of_one in results)
        assert {one["status"], other["status"]} == {200, 201}
        assert one["refund"] == other["refund"]
    assert len(stored(client)) == 40


def test_a_store_that_fails_accepts_nothing(
    sqlite_store: SQLStore, clock: SettableClock, log: io.StringIO
) -> None:
    """One answer and one event; the same batch is accepted later."""
    error = StoreUnavailableError("gone")
    broken = altered(sqlite_store, accept_all=lambda new: [error] * len(new))
    failing = TestClient(create_app(build_container(broken, clock)))
    working = TestClient(create_app(build_container(sqlite_store, clock)))
    members = [member(n) for n in range(3)]
    failed = submit(failing, *members, member(4, amount="-1"))

    assert (failed.status_code, failed.json["code"]) == (503, "store-unavailable")
    assert failed.headers["retry-after"] == "5"
    assert [each["event"] for each in lines(log)].count("request-failed") == 1
    assert stored(working) == []
    assert statuses(submit(working, *members)) == [201] * 3


def test_a_store_that_fails_later_keeps_what_it_accepted(
    sqlite_store: SQLStore, clock: SettableClock, log: io.StringIO
) -> None:
    """Long batches have several transactions; no other follows one that failed."""
    sizes: list[int] = []

    def accept_all(new: Sequence[Acceptance]) -> Sequence[Any]:
        sizes.append(len(new))
        if len(sizes) == 2:
            return [StoreUnavailableError("gone")] * len(new)
        return sqlite_store.accept_all(new)

    broken = altered(sqlite_store, accept_all=accept_all)
    failing = TestClient(create_app(build_container(broken, clock)))
    working = TestClient(create_app(build_container(sqlite_store, clock)))
    members = [member(n) for n in range(3 * TRANSACTION_SIZE)]
    first, again = submit(failing, *members), submit(working, *members)

    assert sizes == [TRANSACTION_SIZE] * 2
    assert statuses(first) == [201] * TRANSACTION_SIZE + [503] * 2 * TRANSACTION_SIZE
    assert {
        each["retry_after"] for each in first.json["results"][TRANSACTION_SIZE:]
    } == {5}
    assert statuses(again) == [200] * TRANSACTION_SIZE + [201] * 2 * TRANSACTION_SIZE
    assert [each["event"] for each in lines(log)].count("request-failed") == 1


def test_members_against_the_policy_do_not_each_wait_for_the_database(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """Each looks for an earlier refund; the first that cannot ends the batch."""
    asked = 0

    def find_block(tenant: str) -> Any:
        nonlocal asked
        asked += 1
        raise StoreUnavailableError("gone")

    broken = altered(sqlite_store, find_block=find_block)
    failing = TestClient(create_app(build_container(broken, clock)))
    answer = submit(failing, *(member(n, network="unknown") for n in range(20)))

    assert (answer.status_code, answer.json["code"]) == (503, "store-unavailable")
    assert asked == 1
