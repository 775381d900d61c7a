"""Many refunds in one request (R31): limits, races, failures and signatures."""

import io
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from api.http.body import MAX_BATCH
from api.views.requests import MAX_MEMBERS
from backends.sql import SQLStore
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import StoreUnavailableError
from signer.model.acceptance import Acceptance
from signer.model.hold import Hold
from signer.refunds.acceptance import TRANSACTION_SIZE
from tests.api.batches import codes, member, send, statuses, stored, submit, without_key
from tests.api.service import BODY, RECIPIENT, build_container
from tests.api.support import NOW, SettableClock, bearer, get, lines, post
from tests.support.ledgers import seal
from tests.support.refunds import altered
from tests.support.signed_requests import RequestKey, signing_tenants


def test_accepts_each_member(client: TestClient, sqlite_store: SQLStore) -> None:
    """In the order of the request, each as the single route would answer."""
    answer = submit(client, *(member(n) for n in (2, 1, 3)))
    results = answer.json["results"]

    assert answer.status_code == 200
    assert [each["idempotency_key"] for each in results] == ["key-2", "key-1", "key-3"]
    assert statuses(answer) == [201] * 3
    assert [each["refund"]["reference"] for each in results] == ["ps_2", "ps_1", "ps_3"]
    assert {each["refund"]["status"] for each in results} == {"queued"}
    assert {each["refund"]["id"] for each in results} == {
        each["id"] for each in stored(client)
    }
    assert all(
        get(client, f"/v1/refunds/{each['refund']['id']}").json == each["refund"]
        for each in results
    )
    seal(sqlite_store)
    records = [each.record.fields for each in sqlite_store.sealed(0, 100)]
    assert {record["event"] for record in records} == {"refund-accept-succeeded"}
    assert sorted(record["details"]["refund_id"] for record in records) == sorted(
        each["refund"]["id"] for each in results
    )


def test_one_bad_member_does_not_affect_the_others(client: TestClient) -> None:
    """Each refusal is the problem document that the single route answers."""
    bad = [
        member(2, amount="-1"),
        member(3, amount=12.5),
        member(4, amount="1001"),
        member(5, recipient=RECIPIENT.lower()),
        member(6, token=...),
        member(7, colour="red"),
        member(8, reason="two\nlines"),
        member(9, network="mars"),
    ]
    answer = submit(client, member(1), *bad, member(10), X_Request_Id="mine")
    first, *refused, last = answer.json["results"]
    single = [
        post(
            client,
            without_key(each),
            Idempotency_Key=each["idempotency_key"],
            X_Request_Id="mine",
        )
        for each in bad
    ]

    assert (first["status"], last["status"]) == (201, 201)
    assert [each["problem"] for each in refused] == [each.json for each in single]
    assert [each["status"] for each in refused] == [s.status_code for s in single]
    assert [each["problem"].get("field") for each in refused] == [
        "amount",
        "amount",
        None,
        "recipient",
        "token",
        "colour",
        "reason",
        None,
    ]
    assert len(stored(client)) == 2


def test_a_repeated_batch_gets_the_same_refunds(
    client: TestClient, clock: SettableClock
) -> None:
    """In any order and grouping (R3, R31)."""
    first = submit(client, *(member(n) for n in range(6)))
    documents = {
        each["idempotency_key"]: each["refund"] for each in first.json["results"]
    }
    clock.advance(60)
    again = submit(
        client, *(member(n) for n in reversed(range(6))), **bearer(clock.now)
    )
    parts = [
        submit(client, *(member(n) for n in part), **bearer(clock.now))
        for part in ((0, 3, 7), (5,))
    ]
    repeated = [
        each
        for answer in (again, *parts)
        for each in answer.json["results"]
        if each["idempotency_key"] in documents
    ]

    assert statuses(again) == [200] * 6
    assert [statuses(part) for part in parts] == [[200, 200, 201], [200]]
    assert [each["refund"] for each in repeated] == [
        documents[each["idempotency_key"]] for each in repeated
    ]
    assert len(stored(client)) == 7


def test_a_batch_and_the_single_route_share_keys(paying: TestClient) -> None:
    """Either gets the refund of the other, and nothing is accepted twice."""
    single = post(paying, without_key(member(1)), Idempotency_Key="key-1")
    answer = submit(paying, member(1), member(2))
    one, two = answer.json["results"]
    again = post(paying, without_key(member(2)), Idempotency_Key="key-2")

    assert single.json["status"] == "broadcast"
    assert (one["status"], two["status"], again.status_code) == (200, 201, 200)
    assert one["refund"] == single.json
    assert (again.json["id"], again.json["status"]) == (
        two["refund"]["id"],
        "broadcast",
    )
    assert len(stored(paying)) == 2


def test_conflicts_are_results(client: TestClient) -> None:
    """A key with another request; a reference that two members have."""
    submit(client, member(1))
    answer = submit(
        client,
        member(1, amount="1"),
        member(2, reference="r"),
        member(3, reference="r"),
    )
    _, first, second = answer.json["results"]

    assert statuses(answer) == [409, 201, 409]
    assert codes(answer) == ["idempotency-mismatch", None, "conflict"]
    assert second["problem"]["refund_id"] == first["refund"]["id"]


_BAD: dict[str, tuple[Any, str | None]] = {
    "no list": ({}, "refunds"),
    "an object": ({"refunds": {}}, "refunds"),
    "null": ({"refunds": None}, "refunds"),
    "empty": ({"refunds": []}, "refunds"),
    "more": ({"refunds": [member()], "wait": 1}, None),
    "a text": ({"refunds": [member(), "x"]}, "refunds.1"),
    "no key": ({"refunds": [member(), {}]}, "refunds.1.idempotency_key"),
    "empty key": (
        {"refunds": [member(idempotency_key="")]},
        "refunds.0.idempotency_key",
    ),
    "number as key": (
        {"refunds": [member(idempotency_key=1)]},
        "refunds.0.idempotency_key",
    ),
    "fraction as key": (
        {"refunds": [member(idempotency_key=1.5)]},
        "refunds.0.idempotency_key",
    ),
    "long key": (
        {"refunds": [member(idempotency_key="k" * 256)]},
        "refunds.0.idempotency_key",
    ),
    "key with a space": (
        {"refunds": [member(idempotency_key="a b")]},
        "refunds.0.idempotency_key",
    ),
    "same key": (
        {"refunds": [member(1), member(2), member(3, idempotency_key="key-1")]},
        "refunds.2.idempotency_key",
    ),
    "too many": (
        {"refunds": [member(n) for n in range(MAX_MEMBERS + 1)]},
        "refunds",
    ),
    "not JSON": ("{", None),
    "no object": ([member()], None),
    "deep": ({"refunds": [member(reason=json.loads("[" * 20 + "]" * 20))]}, None),
    "field twice": ('{"refunds": [{"token": "a", "token": "a"}]}', "token"),
}


@pytest.mark.parametrize("case", _BAD)
def test_a_malformed_batch_changes_nothing(client: TestClient, case: str) -> None:
    body, field = _BAD[case]
    answer = send(client, body)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid-input")
    assert answer.json.get("field") == field
    assert stored(client) == []


def test_a_large_batch(client: TestClient) -> None:
    """500 members, and none above 1 MiB; other routes still take 16 KiB."""
    members = [member(n, reason="x" * 250) for n in range(MAX_MEMBERS)]
    accepted = submit(client, *members)
    padding = " " * MAX_BATCH
    too_large = [
        send(client, json.dumps({"refunds": [member(1)]}) + padding),
        post(client, json.dumps(BODY) + padding[: 17 * 1024]),
    ]

    assert statuses(accepted) == [201] * MAX_MEMBERS
    assert {each.status_code for each in too_large} == {413}
    assert {each.json["code"] for each in too_large} == {"body-too-large"}


def test_a_blocked_tenant_is_refused_as_a_whole(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    sqlite_store.begin_hold(Hold.of_tenant("gateway-1", NOW, "", "token:alice"))
    answer = submit(client, member(1))

    assert (answer.status_code, answer.json["code"]) == (403, "tenant-blocked")
    assert stored(client) == []


def test_an_accepted_member_stays_accepted_when_the_rules_change(
    client: TestClient, container: Container
) -> None:
    first = submit(client, member(1), member(2))
    del container.refunds
    container.networks = {}
    changed = TestClient(create_app(container))
    answer = submit(changed, member(2), member(3))

    assert statuses(answer) == [200, 422]
    assert answer.json["results"][0]["refund"] == first.json["results"][1]["refund"]


def test_preferences_and_the_key_of_the_request_are_ignored(
    paying: TestClient,
) -> None:
    """The answer waits for nothing; each member has its own key."""
    answer = submit(paying, member(1), member(2), Prefer="wait=20", Idempotency_Key="k")

    assert statuses(answer) == [201, 201]
    assert {each["refund"]["status"] for each in answer.json["results"]} == {"queued"}
    assert "preference-applied" not in answer.headers


def test_the_log_has_no_content(client: TestClient, log: io.StringIO) -> None:
    submit(client, member(1, amount="1001"), member(2, reason="canary-text"))
    (request,) = (each for each in lines(log) if each["event"] == "request")

    assert request["route"] == "/v1/refunds/batch"
    assert "canary-text" not in log.getvalue()


# Limits, races and failures of batches.

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


# Batches of a tenant that signs its requests (RFC 9421).

DOCS = Path(__file__).resolve().parents[3] / "docs"

KEY = RequestKey()


@pytest.fixture
def signing(sqlite_store: SQLStore, clock: SettableClock) -> TestClient:
    tenants = signing_tenants(KEY)
    return TestClient(create_app(build_container(sqlite_store, clock, tenants=tenants)))


def signed_member(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a member with the body of a single request, and its signature."""
    key = f"key-{number}"
    body = json.dumps({**BODY, "payment_session_id": f"ps_{number}"})
    headers = KEY.headers(body.encode(), key, NOW)
    whole = {
        "idempotency_key": key,
        "body": body,
        "content_digest": headers["Content-Digest"],
        "signature_input": headers["Signature-Input"],
        "signature": headers["Signature"],
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def test_a_signed_member_is_stored_as_the_tenant_signed_it(
    signing: TestClient, sqlite_store: SQLStore
) -> None:
    """A worker verifies it as it verifies a single request."""
    given = signed_member(1)
    answer = submit(signing, given, signed_member(2), member(3))
    first, _, unsigned = answer.json["results"]
    kept = sqlite_store.signed_request(first["refund"]["id"])

    assert statuses(answer) == [201, 201, 400]
    assert unsigned["problem"]["code"] == "request-signature-invalid"
    assert kept is not None
    assert kept.body == given["body"].encode()
    assert kept.signature_input == given["signature_input"]
    assert (kept.content_digest, kept.at) == (given["content_digest"], NOW)
    assert kept.signature == given["signature"]


def test_the_example_of_the_guide_makes_a_member(signing: TestClient) -> None:
    """The Python code of the guide, as it is printed there."""
    guide = DOCS / "how-to" / "sign-requests.md"
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL):
        exec(compile(code, str(guide), "exec"), names)
    request = names["signed_request"](
        "https://x", "token", "hotwallet", "key-1", BODY, KEY.pem
    )
    given = names["batch_member"](request)

    # The guide signs at the present time, and the service's clock stands still.
    headers = KEY.headers(given["body"].encode(), "key-1", NOW)
    answer = submit(
        signing,
        given
        | {
            "signature_input": headers["Signature-Input"],
            "signature": headers["Signature"],
        },
    )

    assert given.keys() == signed_member().keys()
    assert statuses(answer) == [201]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"idempotency_key": "other"}, "request-signature-invalid", None),
        ({"signature": "sig1=:AAAA:"}, "request-signature-invalid", None),
        ({"signature": ...}, "invalid-input", "signature"),
        ({"signature": 1}, "invalid-input", "signature"),
        ({"signature_input": "x" * 5000}, "invalid-input", "signature_input"),
        ({"body": {}}, "invalid-input", "body"),
        ({"body": "x" * 17_000}, "invalid-input", "body"),
        ({"body": "[]"}, "invalid-input", None),
        (
            {"body": json.dumps(BODY | {"amount": "1"})},
            "request-signature-invalid",
            None,
        ),
        ({"amount": "1"}, "invalid-input", "amount"),
    ],
)
def test_a_member_without_a_valid_signature_is_refused(
    signing: TestClient, changes: dict[str, Any], code: str, field: str | None
) -> None:
    answer = submit(signing, signed_member(1, **changes), signed_member(2))
    refused, accepted = answer.json["results"]

    assert (refused["status"], accepted["status"]) == (400, 201)
    assert refused["problem"]["code"] == code
    assert refused["problem"].get("field") == field
    assert len(stored(signing)) == 1


def test_a_signature_of_a_tenant_that_does_not_sign_is_ignored(
    signing: TestClient, sqlite_store: SQLStore
) -> None:
    answer = submit(signing, signed_member(signature="x"), **bearer(sub="unsigned"))
    (result,) = answer.json["results"]

    assert result["status"] == 201
    assert sqlite_store.signed_request(result["refund"]["id"]) is None
